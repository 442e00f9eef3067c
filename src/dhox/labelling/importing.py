"""`--import MANIFEST`: labels of a manifest into the log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dhox.data.dataset import Item, shorten
from dhox.data.manifest import absolute_path
from dhox.errors import DhoxError, not_there
from dhox.labelling.classes import all_classes, checked_name
from dhox.labelling.entries import Answer, NewClass
from dhox.labelling.log import LabelLog, now
from dhox.labelling.state import State
from dhox.labelling.table import labels_in


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: labels that are new, that replace another answer, that were there already; and rows that name
    no unlabelled image."""

    new: int
    changed: int
    same: int
    unknown: list[str]


def import_labels(manifest: Path, log: LabelLog, items: dict[str, Item], listed: list[str], table: Path) -> Imported:
    """Take the labels of a manifest into the log, by the image's name, else by its path.

    `items`: by name; `table`: the labels.csv of the session. Raises DhoxError where no row names an image, and for a
    label that cannot be one.
    """
    wanted, unknown = labels_of_items(manifest, items)
    if not wanted:
        raise DhoxError(
            f"No row of {manifest} with a label names an unlabelled image of DATA (it has {shorten(unknown, 3)}).",
            "Give a manifest of the same images.",
        )
    if unknown and manifest.resolve() == table.resolve():
        raise DhoxError(
            f"{len(unknown)} rows of {manifest} name no unlabelled image of DATA: {shorten(unknown, 3)}. Writing that "
            "file again would lose them.",
            "Choose another --out.",
        )
    state, classes = log.state, all_classes(listed, log.state)
    wanted = {name: state.renamed.get(label, label) for name, label in wanted.items()}
    added = new_classes(manifest, wanted.values(), classes)
    other = {name: label for name, label in wanted.items() if not has_label(state, name, label)}
    changed = sum(state.is_done(name) for name in other)
    answers = [Answer(now(), [name], "label", label) for name, label in other.items()]
    if answers:
        log.append(*(NewClass(now(), label) for label in added), *answers)
    return Imported(len(other) - changed, changed, len(wanted) - len(other), unknown)


def labels_of_items(manifest: Path, items: dict[str, Item]) -> tuple[dict[str, str], list[str]]:
    """Label by name of an item, and the rows that name none. Raises DhoxError where an image has two labels."""
    if not manifest.exists():
        raise not_there(manifest, "Check the path.", "The manifest of --import ")
    by_path = {absolute_path(item.file): name for name, item in items.items()}
    found: dict[str, str] = {}
    unknown = []
    for said, path, label in labels_in(manifest):
        name = said if said in items else by_path.get(path)
        if name is None:
            unknown.append(said)
        elif found.setdefault(name, label) != label:
            raise DhoxError(f"{manifest} calls {name} both {found[name]} and {label}.", "Keep one of these rows.")
    return found, unknown


def new_classes(manifest: Path, labels: Iterable[str], classes: list[str]) -> list[str]:
    """The labels that are no class yet. Raises DhoxError for one that cannot be."""
    found: list[str] = []
    for label in dict.fromkeys(labels):
        if label in classes:
            continue
        try:
            if checked_name(label, [*classes, *found]) != label:
                raise DhoxError("It has letters in a form that others do not use.", "Write it in Unicode's form NFC.")
        except DhoxError as err:
            raise DhoxError(f"{manifest} has the label {label!r}: {err.reason}", err.fix) from err
        found.append(label)
    return found


def has_label(state: State, name: str, label: str) -> bool:
    """Whether the log says just that of an image."""
    given = state.given(name)
    return given is not None and given.answer == "label" and given.label == label
