from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from refusals import refuses

from dhox.data.dataset import class_names, read_dataset
from dhox.errors import UsageError

READ = "data.manifest.read_manifest"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def manifest(root: Path, text: str, *images: str) -> Path:
    touch(root, *images)
    (root / "m.csv").write_text(text)
    return root / "m.csv"


def names(items: list) -> list[str]:
    return [item.name for item in items]


def test_folder_is_read_into_sorted_splits(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "train/b/2.png", "train/b/deep/1.JPG", "train/a/1.webp", "train/a/notes.txt", "train/a/.hidden.png",
        "unlabelled/x/y/3.png", "unlabelled/1.png", "val/a/1.png", "test/b/1.png", "other/a/1.png",
    )  # fmt: skip
    splits = read_dataset(root)
    assert names(splits["train"]) == ["train/a/1.webp", "train/b/2.png", "train/b/deep/1.JPG"]
    assert [item.label for item in splits["train"]] == ["a", "b", "b"]
    assert [(item.name, item.label) for item in splits["unlabelled"]] == [
        ("unlabelled/1.png", None), ("unlabelled/x/y/3.png", None),
    ]  # fmt: skip
    assert names(splits["val"]) == ["val/a/1.png"]
    assert names(splits["test"]) == ["test/b/1.png"]


def test_csv_and_parquet_give_the_same(tmp_path: Path) -> None:
    csv = manifest(
        tmp_path, "path,label,split,group\n1.png,a,train,g1\n2.png,,,g1\n3.png,b,,\n4.png,a,val,g2\n5.png,a,unlabelled,\n",
        "1.png", "2.png", "3.png", "4.png", "5.png",
    )  # fmt: skip
    splits = read_dataset(csv)
    assert [(item.name, item.label, item.group) for item in splits["train"]] == [
        ("1.png", "a", "g1"),
        ("3.png", "b", None),
    ]
    assert [(item.name, item.label) for item in splits["unlabelled"]] == [("2.png", None), ("5.png", None)]
    table = {
        "path": [f"{i}.png" for i in range(1, 6)], "label": ["a", None, "b", "a", "a"],
        "split": ["train", None, "train", "val", "unlabelled"], "group": ["g1", "g1", None, "g2", None],
    }  # fmt: skip
    parquet.write_table(pyarrow.table(table), tmp_path / "m.parquet")
    assert read_dataset(tmp_path / "m.parquet") == splits


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("kind,label\n1.png,a\n", refuses("m.csv", "kind", "label", at="data.manifest", fix=("path", "label"))),
        ("path,label,split\n1.png,a,holdout\n", refuses("m.csv", 2, "'holdout'", at=READ, fix="train")),
        ("path,label\n9.png,a\n", refuses("m.csv", 2, "9.png", at=READ)),
        ("path,label\n1.png,a\n1.png,b\n", refuses("m.csv", 2, 3, "1.png", at=READ)),
        ("path,label,split\n1.png,,test\n", refuses("m.csv", 2, "test", "label", at=READ, fix="unlabelled")),
        (
            "path,label,split,group\n1.png,a,train,cam\n2.png,a,test,cam\n",
            refuses("'cam'", "train", "test", at="data.dataset"),
        ),
        ("path,label\n", refuses("m.csv", "image", at="data.dataset.read_dataset")),
    ],
)
def test_wrong_manifests_are_named(tmp_path: Path, text: str, refusal: AbstractContextManager) -> None:
    with refusal:
        read_dataset(manifest(tmp_path, text, "1.png", "2.png"))


def test_links_are_followed_once_and_dot_folders_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.png")
    root = touch(tmp_path / "data", "train/a/1.png", "train/.ipynb_checkpoints/2.png")
    (root / "train/b").symlink_to(tmp_path / "elsewhere")
    (root / "train/a/loop").symlink_to(root / "train/a")
    assert names(read_dataset(root)["train"]) == ["train/a/1.png", "train/b/1.png"]


def test_empty_class_folders_and_strange_names_are_named(tmp_path: Path) -> None:
    (touch(tmp_path / "one", "train/a/1.png") / "train/b").mkdir()
    with refuses("train", "b", at="data.folder.read_split"):
        read_dataset(tmp_path / "one")
    touch(tmp_path / "two", "train/a/\udcff.png")
    with refuses("UTF-8", at="data.folder.image_files"):
        read_dataset(tmp_path / "two")


def test_one_split_alone_asks_nothing_of_the_others(tmp_path: Path) -> None:
    csv = manifest(tmp_path, "path,label,split\n1.png,a,train\n2.png,a,test\n", "2.png")
    assert names(read_dataset(csv, only="test")["test"]) == ["2.png"]
    with refuses("m.csv", "exist", "1.png", at="data.manifest.read_manifest"):
        read_dataset(csv)


def test_missing_empty_and_flat_data(tmp_path: Path) -> None:
    with refuses("none", "exist", at="data.dataset.check_exists", kind=UsageError):
        read_dataset(tmp_path / "none")
    with refuses(tmp_path.name, "image", at="data.dataset.read_dataset"):
        read_dataset(tmp_path)
    with refuses("train/1.png", at="data.folder.read_split", fix="train/CLASS/"):
        read_dataset(touch(tmp_path, "train/1.png"))
    touch(tmp_path, "m.txt")
    with refuses("m.txt", ".csv", ".parquet", at="data.dataset.read_dataset"):
        read_dataset(tmp_path / "m.txt")
    (tmp_path / "m.parquet").write_bytes(b"no parquet")
    with refuses("m.parquet", "Parquet", at="data.manifest.read_rows"):
        read_dataset(tmp_path / "m.parquet")


def test_classes_are_in_code_point_order_with_spaces_for_underscores(tmp_path: Path) -> None:
    splits = read_dataset(touch(tmp_path, "train/b_c/1.png", "train/Z/1.png", "train/a/1.png"))
    assert class_names(splits, None) == [("Z", "Z"), ("a", "a"), ("b_c", "b c")]


def test_class_file_gives_order_and_prompt_names(tmp_path: Path) -> None:
    splits = read_dataset(touch(tmp_path, "train/n02/1.png", "train/n01/1.png"))
    (tmp_path / "classes.txt").write_text(
        "\ufeffn02,goldfish, a fish\nn01\tgreat white shark\n\nn_03\nred, ripe\tapple\n"
    )
    assert class_names(splits, tmp_path / "classes.txt") == [
        ("n02", "goldfish, a fish"), ("n01", "great white shark"), ("n_03", "n 03"), ("red, ripe", "apple"),
    ]  # fmt: skip
    (tmp_path / "classes.txt").write_text("n01\nn01\n")
    with refuses("classes.txt", "n01", at="data.dataset.read_class_file"):
        class_names(splits, tmp_path / "classes.txt")
    with refuses("none.txt", "exist", at="data.dataset.read_class_file", kind=UsageError):
        class_names(splits, tmp_path / "none.txt")


def test_labels_outside_the_classes_and_one_class(tmp_path: Path) -> None:
    with refuses("a", at="data.dataset.class_names", fix="--classes"):
        class_names(read_dataset(touch(tmp_path / "one", "train/a/1.png")), None)
    splits = read_dataset(touch(tmp_path / "two", "train/a/1.png", "train/b/1.png", "test/c/1.png"))
    with refuses("test", "c", at="data.dataset.class_names"):
        class_names(splits, None)
