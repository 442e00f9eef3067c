"""WebDataset shards, Hugging Face datasets and groups from names as DATA."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.ipc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from refusals import refuses

from dhox.data.dataset import (
    Item,
    class_names,
    data_address,
    data_exists,
    data_name,
    image_bytes,
    own_classes,
    read_dataset,
    read_image,
)
from dhox.data.items import arrow_table, label_of_number


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (value % 256, value // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, members: dict[str, Any], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            content = content if isinstance(content, bytes) else str(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def seen(items: list[Item]) -> list[tuple[str, str | None, str | None]]:
    return [(item.name, item.label, item.group) for item in items]


def test_shards_give_images_labels_and_groups(tmp_path: Path) -> None:
    first = {
        "0001.jpg": png(1), "0001.cls": "cat\n", "0002.png": png(2), "0002.txt": "dog", "0003.PNG": png(3),
        "0003.json": json.dumps({"label": "cat", "group": "cam1"}), "0004.png": png(4), "sub/0001.png": png(5),
        "sub/0001.cls": "dog", "0001.seg.png": png(99), "README.md": "text", "0005.cls": "cat",
    }  # fmt: skip
    shard(tmp_path / "train/a-000.tar", first)
    shard(tmp_path / "train/a-001.tar", {"./0001.png": png(6), "./0001.cls": "cat"})
    shard(tmp_path / "unlabelled/u.tar", {"x.png": png(7), "x.cls": "dog"})
    shard(tmp_path / "test/t.tar", {"x.png": png(8), "x.json": '{"label": "dog"}'})
    splits = read_dataset(tmp_path)
    assert seen(splits["train"]) == [
        ("train/a-000/0001.jpg", "cat", None), ("train/a-000/0002.png", "dog", None),
        ("train/a-000/0003.PNG", "cat", "cam1"), ("train/a-000/sub/0001.png", "dog", None),
        ("train/a-001/0001.png", "cat", None),
    ]  # fmt: skip
    assert seen(splits["unlabelled"]) == [("train/a-000/0004.png", None, None), ("unlabelled/u/x.png", None, None)]
    assert [image_bytes(item) for item in splits["train"]] == [png(1), png(2), png(3), png(5), png(6)]
    assert read_image(splits["test"][0]).size == (5, 4)
    assert splits["test"][0].label == "dog"
    assert seen(read_dataset(tmp_path, only="test")["test"]) == [("test/t/x.png", "dog", None)]


@given(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=8), names=st.sampled_from(["k{}", "d/k{}", "x-{}_y"]))
def test_a_span_is_the_member_whatever_stands_before_it(sizes: list[int], names: str) -> None:
    contents = {f"{names.format(i)}.jpg": bytes([i]) * size for i, size in enumerate(sizes)}
    shard(Path("s/train/x.tar"), {**contents, "long" * 40 + ".txt": "y"})
    items = read_dataset(Path("s"))["unlabelled"]
    assert {item.name.removeprefix("train/x/"): image_bytes(item) for item in items} == contents


def test_flat_shards_are_told_by_their_names(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        shard(tmp_path / f"{split}-0000.tar", {"1.png": png(1), "1.cls": "a"})
    assert {split: len(items) for split, items in read_dataset(tmp_path).items()} == {
        "train": 1, "unlabelled": 0, "val": 1, "test": 1,
    }  # fmt: skip


def test_class_numbers_follow_the_class_list_or_become_text(tmp_path: Path) -> None:
    shard(tmp_path / "train/x.tar", {"1.png": png(1), "1.cls": "1", "2.png": png(2), "2.json": '{"label": 0}'})
    assert [item.label for item in read_dataset(tmp_path)["train"]] == ["1", "0"]
    assert [item.label for item in read_dataset(tmp_path, labels=["cat", "dog"])["train"]] == ["dog", "cat"]
    with refuses("x.tar", "sample 1", "number 1", "0 to 0", at="data.items.label_of_number"):
        read_dataset(tmp_path, labels=["cat"])
    assert label_of_number(10, ["0", "1", "10"], "x") == "10"
    with refuses("x", -1, "0 to 1", at="data.items.label_of_number"):
        label_of_number(-1, ["a", "b"], "x")


@pytest.mark.parametrize(
    ("members", "split", "at", "facts"),
    [
        ({"1.png": b"x", "1.jpg": b"x"}, "train", "read_shard", ["png, jpg"]),
        ({"1.png": b"x"}, "test", "read_shard", ["test", "label", "KEY.cls"]),
        ({"1.png": b"x", "1.cls": ""}, "val", "read_shard", ["val", "label", "KEY.cls"]),
        ({"1.png": b"x", "1.json": "[1]"}, "train", "_label_and_group", [".json", '{"label": ..., "group": ...}']),
        ({"1.png": b"x", "1.json": "{"}, "train", "_label_and_group", ["label", "JSON"]),
        ({"1.png": b"x", "1.cls": b"\xff"}, "train", "_label_and_group", ["label", "UTF-8"]),
    ],
)
def test_wrong_samples_are_named(tmp_path: Path, members: dict[str, Any], split: str, at: str, facts: list) -> None:
    shard(tmp_path / split / "x.tar", members)
    with refuses("x.tar", 1, *facts, at=f"data.tar_shards.{at}"):
        read_dataset(tmp_path)


def test_a_member_that_stands_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with tarfile.open(tmp_path / "train/x.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("1.png"))
    with refuses("x.tar", "1.png", at="data.tar_shards.read_shard", fix="key"):
        read_dataset(tmp_path)


def test_compressed_truncated_and_mixed_shards_are_refused(tmp_path: Path) -> None:
    whole = shard(tmp_path / "a/train/x.tar", {"1.png": png(1), "1.cls": "a", "2.png": png(2), "2.cls": "b"})
    content = whole.read_bytes()
    whole.write_bytes(gzip.compress(content))
    with refuses("a/train/x.tar", "compressed", at="data.tar_shards.members", fix=".tar"):
        read_dataset(tmp_path / "a")
    for suffix in ("tar.gz", "tgz"):
        whole.rename(whole.with_name(f"x.{suffix}"))
        with refuses(f"x.{suffix}", "compressed", at="data.tar_shards.members", fix=".tar"):
            read_dataset(tmp_path / "a")
        whole.with_name(f"x.{suffix}").rename(whole)
    whole.write_bytes(b"no archive at all" * 100)
    with refuses("a/train/x.tar", "invalid header", at="data.tar_shards.members"):
        read_dataset(tmp_path / "a")
    end = 4 * 1024  # four members of a header and one block each
    for size in (100, 700, 1024, end - 1, end):
        whole.write_bytes(content[:size])
        with refuses("a/train/x.tar", "truncated", at="data.tar_shards.members"):
            read_dataset(tmp_path / "a")
    whole.write_bytes(content[: end + 512])
    assert len(read_dataset(tmp_path / "a")["train"]) == 2
    Image.new("L", (2, 2)).save(tmp_path / "a/train/loose.png")
    with refuses("a", ".tar", "a/train/loose.png", at="data.tar_shards.read_shards"):
        read_dataset(tmp_path / "a")


FEATURES = datasets.Features(
    {"image": datasets.Image(), "label": datasets.ClassLabel(names=["red_one", "blue", "grey"])}
)


def table(labels: list[int], first: int = 0, features: Any = FEATURES, **more: list[Any]) -> datasets.Dataset:
    images = [{"bytes": png(first + i), "path": f"cam{i % 2}_{i}.png"} for i in range(len(labels))]
    return datasets.Dataset.from_dict({"image": images, "label": labels, **more}, features=features)


def saved(root: Path, shards: int = 1, **splits: datasets.Dataset) -> Path:
    datasets.DatasetDict(splits).save_to_disk(str(root), num_shards=dict.fromkeys(splits, shards))
    return root


@pytest.mark.parametrize("shards", [1, 3])
def test_a_saved_dataset_dict_is_read_row_by_row(tmp_path: Path, shards: int) -> None:
    root = saved(
        tmp_path / "d", shards, train=table([0, 1, 2, 0, -1]), validation=table([1, 1, 0], 50), test=table([2, 0, 1], 60),
        unsupervised=table([0, 1, 2], 70),
    )  # fmt: skip
    splits = read_dataset(root)
    assert seen(splits["train"]) == [
        ("train/0000000/cam0_0.png", "red_one", None), ("train/0000001/cam1_1.png", "blue", None),
        ("train/0000002/cam0_2.png", "grey", None), ("train/0000003/cam1_3.png", "red_one", None),
    ]  # fmt: skip
    assert [item.name for item in splits["unlabelled"]] == [
        "train/0000004/cam0_4.png", "unsupervised/0000000/cam0_0.png", "unsupervised/0000001/cam1_1.png",
        "unsupervised/0000002/cam0_2.png",
    ]  # fmt: skip
    assert all(item.label is None for item in splits["unlabelled"])
    assert [image_bytes(item) for item in splits["train"]] == [png(i) for i in range(4)]
    assert [image_bytes(item) for item in splits["test"]] == [png(60 + i) for i in range(3)]
    assert [item.label for item in splits["val"]] == ["blue", "blue", "red_one"]
    assert len({item.path for item in splits["val"]}) == shards
    own = own_classes(root)
    assert own == [("red_one", "red one"), ("blue", "blue"), ("grey", "grey")]
    assert class_names(splits, None, own) == own
    assert seen(read_dataset(root, only="test")["test"]) == seen(splits["test"])


def read_values(items: list[Item]) -> list[bytes]:
    return [image_bytes(item) for item in items]


def test_items_travel_to_other_processes_and_threads(tmp_path: Path) -> None:
    items = read_dataset(saved(tmp_path / "d", 2, train=table([0, 1] * 20)))["train"]
    assert len(pickle.dumps(items[0])) < 1000
    wanted = [png(i) for i in range(40)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert [value for part in pool.map(read_values, [items[:20], items[20:]]) for value in part] == wanted
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(image_bytes, items)) == wanted


def test_one_dataset_texts_numbers_and_groups(tmp_path: Path) -> None:
    features = datasets.Features(
        {"photo": datasets.Image(), "label": datasets.Value("string"), "group": datasets.Value("string")}
    )
    images = [{"bytes": png(i), "path": None} for i in range(3)]
    rows = {"photo": images, "label": ["b", "a", None], "group": ["g", None, "h"]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "texts"))
    splits = read_dataset(tmp_path / "texts")
    assert seen(splits["train"]) == [("train/0000000", "b", "g"), ("train/0000001", "a", None)]
    assert seen(splits["unlabelled"]) == [("train/0000002", None, "h")]
    assert own_classes(tmp_path / "texts") is None

    numbers = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    table([1, 0], features=numbers).save_to_disk(str(tmp_path / "numbers"))
    assert [item.label for item in read_dataset(tmp_path / "numbers")["train"]] == ["1", "0"]
    assert [i.label for i in read_dataset(tmp_path / "numbers", labels=["cat", "dog"])["train"]] == ["dog", "cat"]


def test_an_arrow_file_stays_mapped_but_not_open(tmp_path: Path) -> None:
    (item,) = read_dataset(saved(tmp_path / "d", train=table([0])), only="train")["train"]
    arrow_table.cache_clear()
    before = len(list(Path("/proc/self/fd").iterdir()))
    content = arrow_table(item.file)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert item.file in Path("/proc/self/maps").read_text()
    assert content[item.column][0]["bytes"].as_py() == png(0)


def test_load_dataset_reads_a_folder_and_its_image_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, label, value in [("train", "a", 1), ("train", "b", 2), ("test", "a", 3)]:
        folder = tmp_path / "photos" / split / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "1.png").write_bytes(png(value))
    data = Path("hf:photos")
    assert data_exists(data)
    assert (data_name(data), data_name(Path("hf:org/photos"))) == ("photos", "photos")
    assert data_address(data) == f"hf:{tmp_path / 'photos'}"
    assert data_address(Path("hf:org/photos")) == "hf:org/photos"
    assert data_address(Path("photos")) == str(tmp_path / "photos")
    splits = read_dataset(data)
    assert [(item.label, image_bytes(item)) for item in splits["train"]] == [("a", png(1)), ("b", png(2))]
    assert [item.name for item in splits["test"]] == ["test/0000000/1.png"]
    assert own_classes(data) == [("a", "a"), ("b", "b")]


def test_rows_may_name_image_files_instead_of_holding_them(tmp_path: Path) -> None:
    root = saved(tmp_path / "d", train=table([0, 1]))
    file = next(root.glob("train/*.arrow"))
    whole = pyarrow.ipc.open_stream(file.read_bytes()).read_all()
    column = whole.column("image").combine_chunks()
    outside = [{"bytes": None, "path": str(tmp_path / "1.png")}, {"bytes": png(9), "path": "inside.png"}]
    whole = whole.set_column(0, whole.schema.field("image"), pyarrow.array(outside, column.type))
    with pyarrow.ipc.new_stream(file, whole.schema) as stream:
        stream.write_table(whole)
    with refuses("train", 1, "1.png", at="data.hf_dataset._stored_images"):
        read_dataset(root)
    (tmp_path / "1.png").write_bytes(png(8))
    items = read_dataset(root)["train"]
    assert [(item.name, image_bytes(item)) for item in items] == [
        ("train/0000000/1.png", png(8)), ("train/0000001/inside.png", png(9)),
    ]  # fmt: skip


def test_wrong_datasets_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refuses("'holdout'", "train", "validation", at="data.hf_dataset.read_hf"):
        read_dataset(saved(tmp_path / "split", holdout=table([0, 1])))
    with refuses("test", 1, "label", at="data.hf_dataset.read_table"):
        read_dataset(saved(tmp_path / "label", train=table([0, 1]), test=table([0, -1])))
    plain = datasets.Dataset.from_dict({"text": ["a"]})
    with refuses("train", 0, "Image", "text", at="data.hf_dataset._image_column", fix="cast_column"):
        read_dataset(saved(tmp_path / "image", train=plain))
    two = datasets.Features({**FEATURES, "label2": datasets.ClassLabel(names=["x"])})
    both = table([0, 1], features=two, label2=[0, 0])
    assert len(read_dataset(saved(tmp_path / "both", train=both))["train"]) == 2
    with refuses("two", "train", "label3, label2", at="data.hf_dataset._label_column", fix="remove_columns"):
        read_dataset(saved(tmp_path / "two", train=both.rename_column("label", "label3")))
    root = saved(tmp_path / "damaged", train=table([0, 1]))
    next(root.glob("train/*.arrow")).write_bytes(b"no arrow")
    with refuses("damaged", "ArrowInvalid", at="data.hf_dataset._open_splits", fix="save_to_disk"):
        read_dataset(root)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with refuses("datasets", at="errors.require", fix="'dhox[hf]'"):
        read_dataset(root)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_group_by_takes_the_first_group_of_the_pattern(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/a/cam1_1.png", "train/b/cam2_1.png", "unlabelled/cam1_2.png", "test/a/cam3_1.png")
    splits = read_dataset(root, group_by=r"(cam\d+)_(\d)")
    assert [item.group for of_split in splits.values() for item in of_split] == ["cam1", "cam2", "cam1", "cam3"]
    touch(root, "test/b/cam2_9.png")
    with refuses("'cam2'", "train", "test", at="data.dataset._check_groups"):
        read_dataset(root, group_by=r"(cam\d+)_")
    assert len(read_dataset(root)["test"]) == 2


@pytest.mark.parametrize(
    ("pattern", "facts", "fix"),
    [
        ("(cam", ["missing ), unterminated subpattern"], ()),
        ("cam", [], "'(cam\\d+)_'"),
        (r"(cam9)", ["train/a/cam1_1.png"], ()),
        (r"train|(cam)", ["train/a/cam1_1.png"], ()),
    ],
)
def test_wrong_group_patterns_are_named(tmp_path: Path, pattern: str, facts: list, fix: str) -> None:
    with refuses("--group-by", repr(pattern), *facts, at="data.dataset._with_groups", fix=fix):
        read_dataset(touch(tmp_path, "train/a/cam1_1.png"), group_by=pattern)


@pytest.mark.slow
def test_the_whole_line_runs_on_shards_and_a_saved_dataset(line: Path, tmp_path: Path) -> None:
    from conftest import TEACHER

    import dhox.bench
    from dhox import export

    classes = sorted(path.name for path in (line / "data/train").iterdir())
    splits: dict[str, datasets.Dataset] = {}
    for split in ("train", "val", "test"):
        members, rows = {}, {"image": [], "label": []}
        for number, label in enumerate(classes):
            for path in sorted((line / "data" / split / label).iterdir()):
                key = f"{label}-{path.stem}"
                members |= {f"{key}.png": path.read_bytes(), f"{key}.cls": str(number)}
                rows["image"].append({"bytes": path.read_bytes(), "path": path.name})
                rows["label"].append(number)
        shard(tmp_path / "shards" / split / "0.tar", members)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
        splits["validation" if split == "val" else split] = datasets.Dataset.from_dict(rows, features=features)
    (tmp_path / "classes.txt").write_text("\n".join(classes))
    predictions = {}
    for name, root, workers in (("shards", tmp_path / "shards", 0), ("saved", saved(tmp_path / "d", **splits), 2)):
        run = tmp_path / "runs" / name
        result = dhox.distill(
            root, run, teacher=TEACHER, student="test_resnet", student_weights="none", image_size=28, shots=8, epochs=1,
            batch_labelled=8, batch_unlabelled=32, views=1, workers=workers, tune_on="held-out",
            label_sampler="few-shot-reference", group_by="(.*)",
            classes=tmp_path / "classes.txt" if name == "shards" else None,
        )  # fmt: skip
        assert [entry.name for entry in result.summary.classes] == classes
        sets = result.summary.sets
        assert (sets.n_labelled, sets.n_validation, sets.selection) == (24, 8, "held-out")
        assert (sets.tune_on, sets.label_sampler) == ("held-out", "few-shot-reference")
        export(run, run / "export")
        predictions[name] = dhox.bench(
            run / "export", out=run / "bench/x", duration=0.05, energy=0, batch="1", scope="e2e"
        ).bench
        assert predictions[name].accuracy.rows[0].n == 48
        assert np.load(run / "test.npz")["labels"].shape == (48,)
