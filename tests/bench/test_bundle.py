"""What a bench on a board takes along."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from dhox.bench.bench_models import open_models
from dhox.bench.options import BenchOptions
from dhox.bench.remote.bundle import Bundle, add_images, add_models
from dhox.bench.remote.run import bench_remote, check_one_data
from dhox.data.dataset import Item, read_dataset
from dhox.options.declare import build

CONTRACT = """\
schema = "dhox.contract/1"
classes = "{}"
input = {{name = "pixels", layout = "nchw", dtype = "uint8", colour = "rgb"}}
output = {{name = "answer", kind = "logits"}}

[preprocessing]
fit = "crop"
resize = 32
crop = 32
interpolation = "bilinear"
range = 1
mean = [0.5, 0.5, 0.5]
std = [0.2, 0.2, 0.2]
"""


def test_exports_of_several_data_are_not_judged_on_one(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    other = Path(shutil.copytree(export, "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"data": "/elsewhere"}))
    with refuses("DATA", "/elsewhere", at="bench.remote.run.check_one_data", fix="--data"):
        bench_remote([export, other], build(BenchOptions, host="nobody@localhost.invalid", device="cpu"))
    check_one_data(open_models([export]))


def bundle_of(folder: Path) -> Bundle:
    """An empty bundle."""
    folder.mkdir()
    return Bundle(folder)


def files_of(bundle: Bundle, tree: str) -> dict[str, bytes]:
    """What a tree holds, by relative path."""
    root = bundle.folder / "trees" / tree
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_equal_trees_are_one_and_other_files_make_another(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle")
    first = bundle.add_tree({"a": b"1", "b": b"2"})
    assert bundle.add_tree({"b": b"2", "a": b"1"}) == first
    assert (bundle.files, bundle.size) == (2, 2)
    assert len({first, bundle.add_tree({"a": b"2", "b": b"2"}), bundle.add_tree({"a": b"1", "b": b"2"}, "of")}) == 3


def test_an_export_is_sent_without_engines_and_card(own_line: Path, tmp_path: Path) -> None:
    export = own_line / "runs/tiny/export"
    (export / "engines/x").mkdir(parents=True)
    (export / "engines/x/model.engine").write_bytes(b"engine")
    bundle = bundle_of(tmp_path / "bundle")
    places = add_models(bundle, [export, export / "model.onnx"], None)
    (tree,) = bundle.trees
    # The model card is for people, and changes with every bench: the board is sent what it needs.
    sent = [path for path in export.iterdir() if path.is_file() and path.name != "MODEL_CARD.md"]
    files = {f"tiny/export/{path.name}": path.read_bytes() for path in sent}
    assert files_of(bundle, tree) == files
    assert places == {export: f"{tree}/tiny/export", export / "model.onnx": f"{tree}/tiny/export/model.onnx"}
    (export / "model.onnx").write_bytes(b"damaged")
    with refuses("model.onnx", "manifest.json", "SHA-256", at="artefacts.files.check_hash"):
        add_models(bundle, [export], None)


def test_equal_exports_have_a_place_each_which_stays_theirs(own_line: Path, tmp_path: Path) -> None:
    export = own_line / "runs/tiny/export"
    paths = [export]
    for folder in ("b", "c"):
        paths.append(Path(shutil.copytree(export, own_line / folder / "tiny/export")))
    places = add_models(bundle_of(tmp_path / "bundle"), paths, None)
    assert len(set(places.values())) == 3
    # Engines that are built there are found again.
    assert [add_models(bundle_of(tmp_path / f"{n}"), [path], None)[path] for n, path in enumerate(paths)] == [
        *places.values()
    ]


def test_a_contract_takes_its_class_list_along_and_nothing_from_elsewhere(own_line: Path, tmp_path: Path) -> None:
    model = tmp_path / "other.onnx"
    model.write_bytes((own_line / "runs/tiny/export/model.onnx").read_bytes())
    contract = tmp_path / "contract.toml"
    contract.write_text(CONTRACT.format("names.txt"))
    (tmp_path / "names.txt").write_text("a\nb\n")
    bundle = bundle_of(tmp_path / "bundle")
    places = add_models(bundle, [model], contract)
    assert [sorted(files_of(bundle, places[path].split("/")[0])) for path in (model, contract)] == [
        ["other.onnx"],
        ["contract.toml", "names.txt"],
    ]
    contract.write_text(CONTRACT.format("../names.txt"))
    with refuses("../names.txt", at="bench.remote.bundle.beside"):
        add_models(bundle, [model], contract)


@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), st.sampled_from("ab")), min_size=1, max_size=5, unique_by=lambda row: row[0].strip()))  # fmt: skip
def test_images_keep_their_names_whatever_they_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    rows = [(name.strip(), label) for name, label in rows if name.strip()]
    folder = tmp_path_factory.mktemp("images")
    (folder / "file").write_bytes(b"pixels")
    items = [Item(str(folder / "file"), name, label) for name, label in rows]
    bundle = bundle_of(folder / "bundle")
    place = add_images(bundle, "/data", items, [])
    if not items:
        assert place is None
        return
    assert place is not None
    found = read_dataset(bundle.folder / "trees" / place, "test")["test"]
    assert {(item.name, item.label) for item in found} == set(rows)
    assert bundle.files == 2  # equal content is one file


def test_benches_on_the_same_data_share_images(tmp_path: Path) -> None:
    items = [Item(str(tmp_path / name), name, "a") for name in "xyz"]
    for item in items:
        item.path.write_text(item.name)
    bundle = bundle_of(tmp_path / "bundle")
    places = {add_images(bundle, "/data", items[:2], []), add_images(bundle, "/data", items[1:], [])}
    assert len(places) == 2
    assert len(bundle.trees) == 1
    assert bundle.files == 3 + 2


def test_an_image_inside_an_archive_is_sent_alone(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"..image..")
    bundle = bundle_of(tmp_path / "bundle")
    add_images(bundle, "/data", [Item(str(tmp_path / "archive"), "x", "a", span=(2, 5))], [])
    assert b"image" in files_of(bundle, bundle.trees[0]).values()


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with refuses("gone.png", "No such file", at="bench.remote.bundle.add_images"):
        add_images(bundle_of(tmp_path / "bundle"), "/data", [Item(str(tmp_path / "gone.png"), "gone.png", "a")], [])
