"""Labels that lie beside DATA: a manifest of some of its images (`--labels FILE`, what `dhox label` writes)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from dhox.data.items import Item, Splits, shorten
from dhox.data.manifest import MANIFESTS, absolute_path, named_rows, picture_path
from dhox.data.split_names import SPLIT_OF, split_of
from dhox.errors import DhoxError, not_there

MAKE_ONE = "Make one with dhox label, or write a manifest with the columns path (or name) and label."


@dataclass(frozen=True)
class Labelled:
    """DATA's splits with the labels of a file, and what there is to say of it."""

    splits: Splits
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A row of the file: its number, the image's name and path as they stand there, its label and its split."""

    number: int
    name: str
    path: str
    label: str
    split: str


def check_labels_file(file: Path) -> None:
    """Raise DhoxError where there is no such file, or it is no manifest: before anything heavy is done."""
    if not file.is_file():
        raise not_there(file, MAKE_ONE, "The file of labels")
    if file.suffix.lower() not in MANIFESTS:
        raise DhoxError(f"--labels {file} is no .csv, .tsv or .parquet file.", MAKE_ONE)


def with_labels(splits: Splits, file: Path) -> Labelled:
    """The splits after the labels of `file`: its images move to train (or to the split that its row names) with their
    label, which stands above a label of DATA itself; every other image stays as it is.

    An image is found by its name in DATA, else by its path (relative to the file's folder). Rows without a label say
    nothing. Raises DhoxError where no row, or an image of DATA's val or test, or one image with two labels is meant.
    """
    check_labels_file(file)
    where = {item.name: (split, item) for split, items in splits.items() for item in items}
    by_path = _by_path(splits)
    given: dict[str, LabelRow] = {}
    lost = []
    for row in _label_rows(file):
        name = _meant(row, file, where, by_path)
        if name is None:
            lost.append(row)
        elif given.setdefault(name, row).label != row.label:
            raise DhoxError(
                f"{file}, rows {given[name].number} and {row.number} give {name} two labels: {given[name].label} and "
                f"{row.label}.", "Keep one of them.",
            )  # fmt: skip
    if not given:
        raise DhoxError(
            f"{file} labels no image of DATA{f'; its first is {lost[0].path or lost[0].name}' if lost else ''}.",
            "Give the labels of this DATA: images are found by name, then by path.",
        )
    return Labelled(_moved(splits, given, where, file), _notes(given, where, lost, file))


def _label_rows(file: Path) -> list[LabelRow]:
    """The rows that have a label."""
    rows = []
    for number, row in named_rows(file, ("path", "label")):
        split = split_of(row.get("split") or "train")
        if split is None:
            raise DhoxError(
                f"{file}, row {number}: split {row['split']!r} is unknown.", f"Use one of: {', '.join(SPLIT_OF)}."
            )
        if row["label"] and split != "unlabelled":
            rows.append(LabelRow(number, row.get("name") or "", row["path"], row["label"], split))
    return rows


def _by_path(splits: Splits) -> dict[str, list[str]]:
    """Absolute path -> the names of its images (several lie in an archive)."""
    found: dict[str, list[str]] = defaultdict(list)
    for items in splits.values():
        for item in items:
            found[absolute_path(item.file)].append(item.name)
    return found


def _meant(row: LabelRow, file: Path, where: dict[str, tuple[str, Item]], by_path: dict[str, list[str]]) -> str | None:
    """The name of the image that a row means; None where DATA has none."""
    if row.name in where:
        return row.name
    names = by_path.get(absolute_path(file.parent / picture_path(file, row.path)), [])
    if len(names) == 1:
        return names[0]
    return row.path if row.path in where else None


def _moved(splits: Splits, given: dict[str, LabelRow], where: dict[str, tuple[str, Item]], file: Path) -> Splits:
    judging = [
        name for name in given if where[name][0] in {"val", "test"} and where[name][1].label != given[name].label
    ]
    if judging:
        raise DhoxError(
            f"{file} gives images of DATA's val and test other labels than DATA: {shorten(judging)}.",
            "Mend the one that is wrong.",
        )
    moved: Splits = {split: [item for item in items if item.name not in given] for split, items in splits.items()}
    for name, row in given.items():
        home, item = where[name]
        moved[home if home in {"val", "test"} else row.split].append(replace(item, label=row.label))
    return {split: sorted(items, key=lambda item: item.name) for split, items in moved.items()}


def _notes(
    given: dict[str, LabelRow], where: dict[str, tuple[str, Item]], lost: list[LabelRow], file: Path
) -> list[str]:
    notes = [f"{file}: {len(given)} images with a label"]
    changed = [name for name, row in given.items() if where[name][1].label not in {None, row.label}]
    if changed:
        notes.append(f"{len(changed)} labels of {file} stand for others in DATA: {shorten(changed)}")
    if lost:
        names = [row.path or row.name for row in lost]
        notes.append(f"{len(lost)} images that {file} labels are not in DATA: {shorten(names)}")
    return notes
