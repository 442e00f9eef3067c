"""The 11 datasets in CoOp's layout, on small trees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refusals import refuses

from dhox.data.coop import IMAGES_OF, is_coop
from dhox.data.dataset import class_names, own_classes, read_dataset

# split file -> (paths as the real files write them, class names in the order of their numbers)
REAL = {
    "split_zhou_Caltech101.json": ("{c}/image_000{i}.jpg", ["face", "leopard"]),
    "split_zhou_DescribableTextures.json": ("{c}/{c}_000{i}.jpg", ["banded", "blotchy"]),
    "split_zhou_EuroSAT.json": ("Class{n}/Class{n}_{i}.jpg", ["Annual Crop Land", "Sea or Lake"]),
    "split_zhou_Food101.json": ("{c}/{i}.jpg", ["apple_pie", "baby_back_ribs"]),
    "split_zhou_OxfordFlowers.json": ("image_{n}000{i}.jpg", ["pink primrose", "globe thistle"]),
    "split_zhou_OxfordPets.json": ("{c}_{i}.jpg", ["abyssinian", "american_bulldog"]),
    "split_zhou_StanfordCars.json": ("cars_train/{n}000{i}.jpg", ["2000 AM General Hummer SUV", "2012 Acura RL Sedan"]),
    "split_zhou_SUN397.json": ("{n}/abbey/sun_{i}.jpg", ["abbey", "indoor apse"]),
    "split_zhou_UCF101.json": ("{c}/v_g01_c0{i}.jpg", ["Apply_Eye_Makeup", "Yo_Yo"]),
}
PLACES = {"train": (3, 1, 2), "val": (4,), "test": (5, 6)}  # split -> image numbers, in the list's own order


def zhou(root: Path, name: str, images: bool = True) -> Path:
    pattern, classes = REAL[name]
    content = {
        split: [
            [pattern.format(c=c, n=n, i=i), n, c] for i in numbers for n, c in reversed(list(enumerate(classes)))
        ]
        for split, numbers in PLACES.items()
    }  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))
    for path in [path for rows in content.values() for path, _, _ in rows if images]:
        (root / IMAGES_OF[name] / path).parent.mkdir(parents=True, exist_ok=True)
        (root / IMAGES_OF[name] / path).touch()
    return root


def test_all_nine_split_files_are_known() -> None:
    assert REAL.keys() == IMAGES_OF.keys()
    assert len(REAL) == 9


@pytest.mark.parametrize("name", REAL)
def test_split_files_give_splits_classes_and_their_order(tmp_path: Path, name: str) -> None:
    root = zhou(tmp_path / "data", name)
    splits = read_dataset(root)
    pattern, labels = REAL[name]
    assert {split: len(items) for split, items in splits.items()} == {"train": 6, "unlabelled": 0, "val": 2, "test": 4}
    own = own_classes(root)
    assert own == [(label, label.replace("_", " ")) for label in labels]
    assert class_names(splits, None, own) == own
    in_order = sorted(splits["train"], key=lambda item: item.row or 0)
    folder = IMAGES_OF[name]
    wanted = [pattern.format(c=c, n=n, i=i) for i in (3, 1, 2) for n, c in ((1, labels[1]), (0, labels[0]))]
    assert [item.name for item in in_order] == [path if folder == "." else f"{folder}/{path}" for path in wanted]
    assert [item.label for item in in_order] == [labels[1], labels[0]] * 3
    assert all(item.path == root / item.name for item in in_order)


def test_missing_images_and_broken_lists_are_named(tmp_path: Path) -> None:
    name = "split_zhou_OxfordPets.json"
    root = zhou(tmp_path / "bare", name, images=False)
    with refuses(6, "train", "images/abyssinian_1.jpg", at="data.coop.read_coop"):
        read_dataset(root)
    root = zhou(tmp_path / "x", name)
    (root / "images/abyssinian_4.jpg").unlink()
    assert len(read_dataset(root, only="test")["test"]) == 4
    with refuses(1, 2, "val", "images/abyssinian_4.jpg", at="data.coop.read_coop"):
        read_dataset(root)
    for text in ("{", "[]", '{"train": []}', '{"train": [["a"]], "val": [], "test": []}', '{"train": 3}'):
        (root / name).write_text(text)
        with refuses(name, at="data.coop._zhou_rows"):
            read_dataset(root)
    (root / name).write_text(json.dumps({"train": [["abyssinian_1.jpg", 0, "a"]] * 2, "val": [], "test": []}))
    with refuses("twice", "images/abyssinian_1.jpg", at="data.coop.read_coop"):
        read_dataset(root)
    for rows in ([["1.jpg", 0, "a"], ["2.jpg", 0, "b"]], [["1.jpg", 0, "a"], ["2.jpg", 1, "a"]], [["1.jpg", 1, "a"]]):
        (root / name).write_text(json.dumps({"train": rows, "val": [], "test": []}))
        with refuses(name, at="data.coop.coop_classes"):
            own_classes(root)


@pytest.mark.parametrize("place", ["", "data"])
def test_aircraft_reads_its_variant_lists(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("707-320\nBoeing 717\nF/A-18\n")
    lists = {"train": ["2 Boeing 717", "1 707-320", "3 F/A-18"], "val": ["4 F/A-18"], "test": ["5 Boeing 717"]}
    for split, rows in lists.items():
        (folder / f"images_variant_{split}.txt").write_text("\n".join(rows) + "\n")
        for row in rows:
            (folder / f"images/{row[0]}.jpg").touch()
    splits = read_dataset(tmp_path)
    prefix = f"{place}/images" if place else "images"
    assert [(item.name, item.label, item.row) for item in splits["train"]] == [
        (f"{prefix}/1.jpg", "707-320", 1), (f"{prefix}/2.jpg", "Boeing 717", 0), (f"{prefix}/3.jpg", "F/A-18", 2),
    ]  # fmt: skip
    assert [item.label for item in splits["val"] + splits["test"]] == ["F/A-18", "Boeing 717"]
    assert own_classes(tmp_path) == [(name, name) for name in ("707-320", "Boeing 717", "F/A-18")]
    (folder / "images_variant_val.txt").unlink()
    with refuses("images_variant_val.txt", at="data.coop.lines"):
        read_dataset(tmp_path)


def test_imagenet_has_its_val_as_test_and_wnids_as_labels(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for wnid in ("n01440764", "n04356056", "n04355933"):
            (tmp_path / "images" / split / wnid).mkdir(parents=True)
            (tmp_path / "images" / split / wnid / f"{split}_1.JPEG").touch()
    (tmp_path / "classnames.txt").write_text(
        "n01440764 tench\nn01443537 goldfish\nn04355933 sunglasses\nn04356056 sunglasses\n"
    )
    splits = read_dataset(tmp_path)
    assert {split: len(items) for split, items in splits.items()} == {"train": 3, "unlabelled": 0, "val": 0, "test": 3}
    assert splits["test"][0].name == "images/val/n01440764/val_1.JPEG"
    classes = class_names(splits, None, own_classes(tmp_path))
    assert classes == [("n01440764", "tench"), ("n04355933", "sunglasses"), ("n04356056", "sunglasses")]
    (tmp_path / "images/val/loose.JPEG").touch()
    with refuses("images/val/loose.JPEG", at="data.coop._read_imagenet", fix="images/val"):
        read_dataset(tmp_path)
    (tmp_path / "classnames.txt").write_text("n01440764 tench\n")
    with refuses("classnames.txt", "images/train", "n04355933", "n04356056", at="data.coop.coop_classes"):
        own_classes(tmp_path)


def test_an_image_folder_is_no_coop_dataset(tmp_path: Path) -> None:
    (tmp_path / "train/a").mkdir(parents=True)
    (tmp_path / "classnames.txt").write_text("a\n")
    assert not is_coop(tmp_path)
    assert own_classes(tmp_path) is None
