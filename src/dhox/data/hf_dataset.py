"""DATA as a Hugging Face dataset: a folder that `save_to_disk` wrote, or `hf:ORG/NAME` (load_dataset)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dhox.data.items import SPLITS, Item, Splits, arrow_table, label_of_number, shorten
from dhox.data.split_names import SPLIT_OF, split_of
from dhox.errors import DhoxError, require

ADDRESS = "hf:"


def is_saved(root: Path) -> bool:
    """Whether a folder is what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` writes."""
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


def _open_splits(data: Path) -> dict[str, Any]:
    """The dataset's splits by their own names. No code of the dataset runs: `datasets` has none since version 4."""
    library = require("datasets", "hf")
    address = str(data)
    try:
        if address.startswith(ADDRESS):
            found = library.load_dataset(address.removeprefix(ADDRESS))
        else:
            found = library.load_from_disk(address)
    except Exception as err:  # the library raises many types, some of its own
        raise DhoxError(
            f"{data} cannot be opened as a Hugging Face dataset ({type(err).__name__}: {err}).",
            "Check the name, the network and the login, or save it again with save_to_disk.",
        ) from err
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


def read_hf(data: Path, wanted: tuple[str, ...] = SPLITS, labels: list[str] | None = None) -> Splits:
    """List the images of the wanted splits; names are SPLIT/ROW/FILE, images stay in their Arrow files.

    `labels`: the class list in index order, for labels that are plain numbers. Raises DhoxError for unknown splits and
    for columns that are no image and label.
    """
    splits: Splits = {split: [] for split in SPLITS}
    for name, table in _open_splits(data).items():
        split = split_of(name)
        if split is None:
            raise DhoxError(
                f"{data} has the split {name!r}, which may be {', '.join(SPLIT_OF)}.", "Rename it and save it again."
            )
        if split in wanted:
            splits[split] += read_table(table, name, split, labels, f"{data}, split {name}")
    return splits


def read_table(table: Any, name: str, split: str, labels: list[str] | None, where: str) -> list[Item]:
    """The images of one split; its label column is dropped in `unlabelled`."""
    image, label = _image_column(table.features, where), _label_column(table.features, where)
    texts: list[str | None] = [None] * len(table)
    if label is not None and split != "unlabelled":
        names = getattr(table.features[label], "names", None)
        values = table.data.column(label).to_pylist()
        texts = [_label_text(value, names, labels, f"{where}, row {row}") for row, value in enumerate(values)]
    missing = texts.count(None)
    if missing and split in {"val", "test"}:
        raise DhoxError(f"{where}: {missing} images have no label.", "Label them, or leave the split out.")
    groups = table.data.column("group").to_pylist() if "group" in table.column_names else [None] * len(table)

    items: list[Item] = []
    for entry in table.cache_files:
        file = str(Path(entry["filename"]))
        for row, (original, embedded) in enumerate(_stored_images(file, image, where)):
            number = len(items)
            path = file if embedded else original
            text = f"{name}/{number:07d}/{Path(original).name}".rstrip("/")
            group = None if groups[number] is None else sys.intern(str(groups[number]))
            items.append(
                Item(path, text, texts[number], group, row if embedded else number, column=image if embedded else None)
            )
    if len(items) != len(table):
        raise DhoxError(f"{where}: the rows are a selection of its Arrow files.", "Save it again with save_to_disk.")
    return items


def _stored_images(file: str, column: str, where: str) -> list[tuple[str, bool]]:
    """(original file, whether the row holds the encoded image) of every row; no image is read."""
    found = []
    for chunk in arrow_table(file)[column].chunks:
        originals, embedded = chunk.field("path").to_pylist(), chunk.field("bytes").is_valid().to_pylist()
        found += [(original or "", has) for original, has in zip(originals, embedded, strict=True)]
    lost = [original for original, has in found if not has and not Path(original).is_file()]
    if lost:
        raise DhoxError(f"{where}: {len(lost)} image files are missing: {shorten(lost)}.", "Save it with its images.")
    return found


def _image_column(features: dict[str, Any], where: str) -> str:
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if len(images) == 1:
        return images[0]
    raise DhoxError(
        f"{where} has {len(images)} columns of the feature Image among: {', '.join(features)}.",
        "Save it with one (cast_column, remove_columns).",
    )


def _label_column(features: dict[str, Any], where: str) -> str | None:
    """The one ClassLabel, else the column `label` of texts or numbers, else None: the images are unlabelled."""
    classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    if len(classes) == 1:
        return classes[0]
    if "label" in classes or (not classes and "label" in features):
        return "label"
    if classes:
        raise DhoxError(f"{where} has several ClassLabel columns: {', '.join(classes)}.", "Keep one (remove_columns).")
    return None


def _label_text(value: Any, names: list[str] | None, labels: list[str] | None, where: str) -> str | None:
    """The label of a row: a ClassLabel's name (a negative number is no label), a text, or a plain number's class."""
    if value is None or value == "":
        return None
    if names is not None:
        return None if value < 0 else names[value]
    return sys.intern(label_of_number(value, labels, where) if isinstance(value, int) else str(value))


def hf_classes(data: Path) -> list[tuple[str, str]] | None:
    """(label, prompt name) of every class in the ClassLabel's order; None where the labels are texts or numbers."""
    for name, table in _open_splits(data).items():
        label = _label_column(table.features, f"{data}, split {name}")
        names = getattr(table.features[label], "names", None) if label else None
        if names:
            return [(text, text.replace("_", " ")) for text in names]
    return None
