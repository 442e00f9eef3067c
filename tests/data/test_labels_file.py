"""Labels beside DATA: which image a row means, and what moves where."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refuses

from dhox.data.dataset import Item, Splits
from dhox.data.labels_file import with_labels
from dhox.errors import UsageError


@pytest.fixture
def pile(tmp_path: Path) -> Splits:
    """Four unlabelled images, a labelled one, one of val and one of test; names are not paths."""

    def item(name: str, label: str | None = None) -> Item:
        return Item(str(tmp_path / "pile" / name), f"pile/{name}", label)

    return {
        "train": [item("old.png", "cat")], "unlabelled": [item(f"{i}.png") for i in range(4)],
        "val": [item("v.png", "cat")], "test": [item("t.png", "dog")],
    }  # fmt: skip


def write(folder: Path, *rows: str, header: str = "path,label") -> Path:
    file = folder / "labels.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def labels_of(splits: Splits) -> dict[str, dict[str, str | None]]:
    return {split: {item.name: item.label for item in items} for split, items in splits.items()}


def test_images_are_found_by_name_and_by_path(tmp_path: Path, pile: Splits) -> None:
    (tmp_path / "elsewhere").mkdir()
    rows = ["../pile/0.png,cat,", f"{tmp_path}/pile/1.png,dog,", "gone/2.png,dog,pile/2.png", "pile/3.png,,"]
    found = with_labels(pile, write(tmp_path / "elsewhere", *rows, header="path,label,name"))
    assert labels_of(found.splits)["train"] == {
        "pile/0.png": "cat", "pile/1.png": "dog", "pile/2.png": "dog", "pile/old.png": "cat"
    }  # fmt: skip
    assert labels_of(found.splits)["unlabelled"] == {"pile/3.png": None}
    assert "3 images with a label" in found.notes[0]
    assert len(found.notes) == 1


def test_a_row_may_name_its_split_and_overrules_data(tmp_path: Path, pile: Splits) -> None:
    rows = ["pile/0.png,cat,test", "pile/1.png,dog,val", "pile/2.png,dog,unlabelled", "pile/old.png,dog,train"]
    found = with_labels(pile, write(tmp_path, *rows, header="path,label,split"))
    assert labels_of(found.splits) == {
        "train": {"pile/old.png": "dog"}, "unlabelled": {"pile/2.png": None, "pile/3.png": None},
        "val": {"pile/1.png": "dog", "pile/v.png": "cat"}, "test": {"pile/0.png": "cat", "pile/t.png": "dog"},
    }  # fmt: skip
    assert "1 labels" in found.notes[1]
    assert "pile/old.png" in found.notes[1]


def test_test_images_keep_their_place_and_their_label(tmp_path: Path, pile: Splits) -> None:
    found = with_labels(pile, write(tmp_path, "pile/t.png,dog", "pile/0.png,cat"))
    assert [item.name for item in found.splits["test"]] == ["pile/t.png"]
    with refuses(
        "gives images of DATA's val and test other labels than DATA: pile/t.png",
        fix="Mend",
        at="data.labels_file._moved",
    ):
        with_labels(pile, write(tmp_path, "pile/t.png,cat"))


def test_images_that_data_lacks_are_named(tmp_path: Path, pile: Splits) -> None:
    found = with_labels(pile, write(tmp_path, "pile/0.png,cat", "pile/deleted.png,cat"))
    assert "1 images that" in found.notes[1]
    assert "pile/deleted.png" in found.notes[1]
    with refuses(
        "labels no image of DATA; its first is other/x.png", fix="found by name", at="data.labels_file.with_labels"
    ):
        with_labels(pile, write(tmp_path, "other/x.png,cat"))
    with refuses("labels no image of DATA", fix="found by name", at="data.labels_file.with_labels"):
        with_labels(pile, write(tmp_path, "pile/0.png,"))


def test_bad_files_are_refused(tmp_path: Path, pile: Splits) -> None:
    with refuses("two labels: cat and dog", fix="Keep one", at="data.labels_file.with_labels"):
        with_labels(pile, write(tmp_path, "pile/0.png,cat", "./pile/0.png,dog"))
    with refuses("split 'trian' is unknown", fix="Use one of", at="data.labels_file._label_rows"):
        with_labels(pile, write(tmp_path, "pile/0.png,cat,trian", header="path,label,split"))
    with pytest.raises(UsageError, match="labels.csv"):
        with_labels(pile, tmp_path / "none" / "labels.csv")
    (tmp_path / "labels.txt").write_text("x")
    with refuses("is no .csv, .tsv or .parquet file", fix="dhox label", at="data.labels_file.check_labels_file"):
        with_labels(pile, tmp_path / "labels.txt")
