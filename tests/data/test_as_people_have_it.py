"""DATA as people have it: other names of splits and columns, other suffixes, and nothing left out in silence."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PER_CLASS, write_data
from PIL import Image, features
from quick_distill import quick
from refusals import refuses

import dhox
from dhox.data.dataset import check_labels, class_names, read_dataset
from dhox.data.images import SUFFIXES
from dhox.data.items import Item
from dhox.data.leftovers import Leftovers
from dhox.data.manifest import write_manifest
from dhox.distill.images.listing import list_images


def picture(path: Path, colour: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path)
    return path


def counts(data: Path) -> dict[str, int]:
    return {split: len(items) for split, items in read_dataset(data).items()}


@pytest.mark.parametrize("val", ["valid", "validation", "dev", "Val"])
@pytest.mark.parametrize(("train", "unlabelled"), [("Train", "unlabeled"), ("training", "Unlabelled")])
def test_splits_go_by_every_name(tmp_path: Path, train: str, val: str, unlabelled: str) -> None:
    for folder in (f"{train}/a", f"{val}/a", f"{unlabelled}", "testing/a"):
        picture(tmp_path / folder / "1.png")
    assert counts(tmp_path) == {"train": 1, "unlabelled": 1, "val": 1, "test": 1}
    assert read_dataset(tmp_path)["val"][0].name == f"{val}/a/1.png"


def test_two_folders_of_one_split_are_named(tmp_path: Path) -> None:
    for folder in ("val/a", "valid/a"):
        picture(tmp_path / folder / "1.png")
    with refuses("val", "valid", at="data.split_names.split_folders", fix="together"):
        read_dataset(tmp_path)


def test_what_is_not_read_is_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "extra/c/1.png", "extra/2.png", "loose.png"):
        picture(tmp_path / name)
    for name in ("train/a/notes.txt", "train/a/old.raw", "train/a/new.raw", "train/b/Thumbs.db", "train/.DS_Store"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "__MACOSX").mkdir()
    picture(tmp_path / "train/a/.ipynb_checkpoints/1.png")
    left = Leftovers()
    assert len(read_dataset(tmp_path, leftovers=left)["train"]) == 2
    assert left == Leftovers(
        suffixes={".raw": 2, ".txt": 1},  # type: ignore[arg-type]
        folders={"extra": 2, "": 1}, system=4,  # type: ignore[arg-type]
    )  # fmt: skip
    list_images(tmp_path)
    said = capsys.readouterr().out
    assert all(words in said for words in ("2 images in extra/", "1 image beside", "2 .raw, 1 .txt", "4 system files"))


def test_data_that_is_read_whole_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path / "data")
    list_images(tmp_path / "data")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".tga", ".qoi", ".avif", ".jp2", ".webp"])
def test_what_pillow_reads_is_read(tmp_path: Path, suffix: str) -> None:
    codec = {".avif": "avif", ".jp2": "jpg_2000", ".webp": "webp"}.get(suffix)
    if codec is not None and not features.check(codec):
        pytest.skip(f"Pillow was built without {codec}")
    assert suffix in SUFFIXES
    kind = {".jfif": "JPEG", ".jpe": "JPEG", ".jp2": "JPEG2000"}.get(suffix, suffix[1:].upper())
    file = tmp_path / f"train/a/1{suffix}"
    file.parent.mkdir(parents=True)
    Image.new("RGB", (32, 32), (200, 0, 0)).save(file, kind)
    (item,) = read_dataset(tmp_path)["train"]
    from dhox.data.items import read_image

    assert np.abs(np.asarray(read_image(item))[16, 16].astype(int) - (200, 0, 0)).max() <= 12


def manifest(tmp_path: Path, text: str) -> Path:
    for name in ("i/1.png", "i/2.png", "i/3.png"):
        picture(tmp_path / name)
    (tmp_path / "m.csv").write_text(text)
    return tmp_path / "m.csv"


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\ni/1.png,a,train\ni/2.png,b,train\ni/3.png,a,val\n",
        "path;label;split\ni/1.png;a;train\ni/2.png;b;train\ni/3.png;a;valid\n",
        "path\tlabel\tsplit\ni/1.png\ta\tTrain\ni/2.png\tb\ttraining\ni/3.png\ta\tdev\n",
        "Path, Label, Split\ni/1.png, a, train\ni/2.png, b, train\ni/3.png, a, validation\n",
        "filename,class,subset\ni/1.png,a,train\ni/2.png,b,train\ni/3.png,a,VAL\n",
        'image,label,split\n"i\\1.png","a",train\ni\\2.png,b,train\n\ni\\3.png,a,val\n',
    ],
    ids=["dhox's own", "semicolons", "tabs", "spaces and capitals", "filename and class", "Windows"],
)
def test_manifests_of_every_dialect_say_the_same(tmp_path: Path, text: str) -> None:
    splits = read_dataset(manifest(tmp_path, text))
    assert [(item.name, item.label) for item in splits["train"]] == [("i/1.png", "a"), ("i/2.png", "b")]
    assert [(item.name, item.label, item.row) for item in splits["val"]] == [("i/3.png", "a", 2)]


@pytest.mark.parametrize(
    ("text", "facts", "fix"),
    [
        ("path,label\ni/1.png,a\ni/2.png,a,b\n", ["row 3", "3 cells"], "quotation"),
        ('path,label\ni/1.png,a\ni/2.png,"b\ni/3.png,a"\n', ["row 3", "label", "several lines"], "quotation"),
        ('path,label\ni/1.png,a\ni/2.png,"b\ni/3.png,a\n', ["after row 2"], "quotation"),
        ("filename,image,label\ni/1.png,i/1.png,a\n", ["filename, image"], "path"),
        ("path,label,split\ni/1.png,a,holdout\n", ["row 2", "'holdout'"], "validation"),
        ("file,kind\ni/1.png,a\n", ["file, kind"], "path, label"),
    ],
    ids=["a cell too many", "a stray quote", "an open quote", "two paths", "an unknown split", "no label"],
)
def test_a_row_that_is_wrong_is_named(tmp_path: Path, text: str, facts: list[str], fix: str) -> None:
    with refuses(*facts, at="data.manifest", fix=fix):
        read_dataset(manifest(tmp_path, text))


def forms(path: Path) -> dict[str, Any]:
    """One image in every form that dhox.load takes."""
    content = path.read_bytes()
    return {
        "path": path, "text": str(path), "bytes": content, "PIL": Image.open(path),
        "PIL, from memory": Image.open(io.BytesIO(content)),
    }  # fmt: skip


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_every_form_of_an_image_gets_the_same_answer(line: Path, tmp_path: Path, orientation: int) -> None:
    """A camera's turned photograph too: EXIF says how it stands."""
    original = Image.open(next((line / "data/test/sandal").glob("*.png"))).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    original.save(tmp_path / "turned.png", exif=exif)
    model = dhox.load(line / "runs/tiny/export", device="cpu")  # type: ignore[operator]
    answers = {name: model(form) for name, form in forms(tmp_path / "turned.png").items()}
    answers["array"] = model(np.asarray(original.transpose(TURNS[orientation]) if orientation > 1 else original))
    for name, answer in answers.items():
        np.testing.assert_array_equal(answer, answers["path"], err_msg=name)


TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}


def test_a_training_on_other_names_is_the_same_training(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "data/val").rename(tmp_path / "data/valid")
    result = quick(tmp_path / "data", method="ce")
    assert result.summary.sets.n_validation == 4 * PER_CLASS["val"]


def test_class_folders_without_splits_are_train_and_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    for name in ("c/dog/1.png", "c/dog/far/2.png", "c/cat/3.png", "c/4.png", "c/notes.txt", "f/5.png", "f/6.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / name) if "." in name and not name.endswith("txt") else (
            tmp_path / name
        ).touch()
    leftovers = Leftovers()
    splits = read_dataset(tmp_path / "c", leftovers=leftovers)
    assert [(item.name, item.label) for item in splits["train"]] == [
        ("cat/3.png", "cat"), ("dog/1.png", "dog"), ("dog/far/2.png", "dog"),
    ]  # fmt: skip
    assert not splits["unlabelled"] + splits["val"] + splits["test"]
    assert leftovers.lines() == [
        "Not read: 1 image beside the folders.",
        "Not read: 1 file of no image format that is read here (1 .txt).",
    ]
    flat = read_dataset(tmp_path / "f")
    assert [(item.name, item.label) for item in flat["unlabelled"]] == [("5.png", None), ("6.jpg", None)]
    assert not flat["train"] + flat["val"] + flat["test"]


def test_a_list_of_the_images_gives_the_same_images(tmp_path: Path) -> None:
    (tmp_path / "d/cat").mkdir(parents=True)
    for name in ("a, b.png", 'q"x.png', "line\nbreak.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / "d/cat" / name)
    splits = read_dataset(tmp_path / "d")
    write_manifest(tmp_path / "m.csv", splits)
    again = read_dataset(tmp_path / "m.csv")
    assert [(item.file, item.name, item.label) for item in again["train"]] == [
        (item.file, item.name, item.label) for item in splits["train"]
    ]


@pytest.mark.slow
def test_class_folders_go_down_the_whole_line(tmp_path: Path) -> None:
    """The splits are drawn once: export and bench judge by the images that were held back, which no training saw."""
    write_data(tmp_path / "data")
    (tmp_path / "data/train").rename(tmp_path / "photos")
    run = quick(tmp_path / "photos", val_fraction=0.25, test_fraction=0.25, epochs=1)
    assert (run.summary.sets.n_validation, run.summary.sets.n_test) == (4 * 6, 4 * 6)
    splits = read_dataset(Path(run.summary.data))
    assert len(splits["train"]) == 4 * 12
    assert {item.name for item in splits["val"]} == set(run.summary.sets.validation)
    exported = dhox.export(run.run, run.run / "export")  # type: ignore[operator]
    assert exported.manifest.data == run.summary.data
    measured = dhox.bench(run.run / "export", duration=0.05, energy=0, device="cpu")  # type: ignore[operator]
    (row,) = measured.bench.accuracy.rows
    assert (measured.bench.accuracy.split, row.n) == ("test", 4 * 6)
    again = quick(tmp_path / "photos", "runs/again", val_fraction=0.25, test_fraction=0.25, epochs=1)
    assert (again.run / "splits.csv").read_bytes() == (run.run / "splits.csv").read_bytes()


def test_a_flat_folder_of_images_trains_by_the_teacher_alone(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((tmp_path / "data/train").rglob("*.png"))):
        path.rename(flat / f"{number}.png")
    Path("classes.txt").write_text("bag\ndress\nsandal\ntrousers\n")
    run = quick(flat, method="kd", classes=Path("classes.txt"))
    assert (run.summary.sets.n_labelled, run.summary.sets.n_unlabelled) == (0, 96)
    with refuses("none", at="data.dataset.class_names", fix="--classes"):
        quick(flat, "runs/y")


NFC, NFD = "Caf\u00e9", "Cafe\u0301"


@pytest.mark.parametrize(
    ("folders", "classes", "places"),
    [
        ([f"train/{NFC}", "train/tea", f"val/{NFD}"], None, ["in train", "in val"]),
        ([f"train/{NFC}", "train/tea", f"train/{NFD}"], None, ["in train"]),
        ([f"train/{NFD}", "train/tea"], [NFC, "tea"], ["classes.txt", "in train"]),
    ],
)
def test_two_spellings_of_one_class_name_are_both_shown(
    tmp_path: Path, folders: list[str], classes: list[str] | None, places: list[str]
) -> None:
    for folder in folders:
        picture(tmp_path / "data" / folder / "1.png")
    file = None
    if classes is not None:
        file = tmp_path / "classes.txt"
        file.write_text("\n".join(classes), encoding="utf-8")
    with refuses(
        r"'Caf\xe9' (NFC)", r"'Cafe\u0301' (NFD)", *places, at="data.spellings.check_spellings", fix=("NFC", "NFD")
    ):
        class_names(read_dataset(tmp_path / "data"), file)


def test_one_spelling_is_no_other_whichever_it_is(tmp_path: Path) -> None:
    for folder in (f"train/{NFD}", "train/Cafe", f"val/{NFD}"):
        picture(tmp_path / folder / "1.png")
    assert [label for label, _ in class_names(read_dataset(tmp_path), None)] == ["Cafe", NFD]
    with refuses(r"'Cafe\u0301' (NFD)", "the training", "these images", at="data.spellings.check_spellings"):
        check_labels([Item("1.png", "1.png", NFC)], ["Cafe", NFD])


@pytest.mark.parametrize("split", ["train/", ""])
def test_two_classes_that_are_one_folder_by_links_are_named(tmp_path: Path, split: str) -> None:
    picture(tmp_path / split / "cat/1.png")
    picture(tmp_path / split / "dog/2.png")
    (tmp_path / split / "cat/more").symlink_to(tmp_path / split / "cat")  # of the same class: followed once
    assert counts(tmp_path)["train"] == 2
    (tmp_path / split / "wolf").symlink_to(tmp_path / split / "dog")
    with refuses(tmp_path / split / "dog", tmp_path / split / "wolf", at="data.folder.check_links", fix="link"):
        read_dataset(tmp_path)


def test_unlabelled_images_may_be_linked_twice(tmp_path: Path) -> None:
    picture(tmp_path / "unlabelled/a/1.png")
    (tmp_path / "unlabelled/b").symlink_to(tmp_path / "unlabelled/a")
    assert counts(tmp_path)["unlabelled"] == 1
