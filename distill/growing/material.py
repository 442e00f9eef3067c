"""Which images a new class is learned from, and against: its own, the run's, and what both may not share."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dhox.artefacts.run_directory import RunDirectory
from dhox.console import say
from dhox.data.dataset import Item, Splits, check_labels, data_exists, spread
from dhox.data.folder import image_files
from dhox.data.leftovers import Leftovers, counted
from dhox.data.manifest import check_files
from dhox.distill.images.listing import Images, list_images, look
from dhox.distill.images.scan import Seen, scan
from dhox.distill.images.sets import without_copies
from dhox.errors import DhoxError, UsageError, not_there

FEWEST_IMAGES = 2  # of a new class: one has to judge a row that the other one gives
MOST_OLD_IMAGES = 2048  # that hold the old classes
FOLDER = "added"  # before the names of added images


@dataclass(frozen=True)
class Material:
    """Images by what they are for: the new class's, training images of the old classes (the first `n_labelled` have a
    label), validation and test as the run has them; `splits`: DATA of the new run."""

    new: list[Item]
    old: list[Item]
    n_labelled: int
    validation: list[Item]
    test: list[Item]
    splits: Splits
    notes: list[str]

    def old_classes(self, labels: list[str], answers: torch.Tensor) -> torch.Tensor:
        """Class numbers int [N] of the old images: their labels, else what the student answers, int [N]."""
        numbers = {label: number for number, label in enumerate(labels)}
        known = torch.tensor([numbers[str(item.label)] for item in self.old[: self.n_labelled]], dtype=torch.long)
        return torch.cat([known, answers[self.n_labelled :].cpu()])


@dataclass(frozen=True)
class NewImages:
    """The readable images of a new class, no two of the same bytes, and what was said of the others."""

    items: list[Item]
    seen: dict[str, Seen]
    notes: list[str]


def read_new_images(folder: Path, name: str, skip_bad_images: bool) -> NewImages:
    """The images below a folder. Raises UsageError where there is none such, DhoxError for too few or bad images."""
    if not folder.exists():
        raise not_there(folder, "Give the folder that holds images of the new class.")
    if not folder.is_dir():
        raise UsageError(f"--images {folder} is a file.", "Give the folder that holds images of the new class.")
    leftovers = Leftovers()
    items = [Item(file, f"{FOLDER}/{name}/{inside}", name) for file, inside in image_files(folder, leftovers)]
    for line in leftovers.lines():
        say(line)
    good, seen = scan({"train": items}, skip_bad_images)
    content = {item.name: seen[item.name].content for item in good["train"]}
    kept = without_copies(good["train"], set(), content)
    if len(kept) < FEWEST_IMAGES:
        raise DhoxError(
            f"{folder} holds {counted(len(kept), 'different image')}, and a class needs {FEWEST_IMAGES} at least: "
            "one has to judge what the others teach.",
            "Add images of the class; ten are a good start.",
        )
    skipped, copies = len(items) - len(good["train"]), len(good["train"]) - len(kept)
    notes = [f"{skipped} unreadable images in {folder} were skipped"] * bool(skipped)
    notes += [f"{copies} images in {folder} are copies of others there and were dropped"] * bool(copies)
    return NewImages(kept, seen, notes)


def gather(source: RunDirectory, new: NewImages, name: str, data: Path | None, skip_bad_images: bool) -> Material:
    """The run's images where they are now, and the new ones.

    Raises DhoxError where DATA is gone, lacks images or holds others under their names, lies in archives, or has an
    image of the new class under another one.
    """
    run = source.run
    root = data or Path(run.data)
    if not data_exists(root):
        raise DhoxError(
            f"The run's images are no longer at {root}, and without them the old classes cannot be held.",
            "Say where they are with --data, or bring them back.",
        )
    listing = list_images(root, group_by=run.sets.group_by, tell=False)
    check_files(listing.splits)  # since the new run will list them
    images = look(
        listing, skip_bad_images=skip_bad_images or bool(run.skipped), cache=source.path.absolute().parent / "cache",
        tell=False,
    )  # fmt: skip
    by_name = {item.name: item for items in images.splits.values() for item in items}
    test_names = [] if source.test is None else source.test.names.tolist()
    found = [
        _found_again(names, by_name, run.labels, root) for names in (run.sets.labelled, run.sets.validation, test_names)
    ]
    labelled, validation, test = found
    check_labels(labelled + validation + test, run.labels)
    for items, split in ((validation, "val"), (test, "test")):
        _check_same(items, source.images.by_name(split), images)  # type: ignore[arg-type]
    content = images.content | {item.name: new.seen[item.name].content for item in new.items}
    of_new = {content[item.name] for item in new.items}
    _check_apart(labelled + validation + test, new, content, name)
    splits = {split: [item for item in items if content[item.name] not in of_new]
              for split, items in images.splits.items()}  # fmt: skip
    n_shared = sum(map(len, images.splits.values())) - sum(map(len, splits.values()))
    old = _old_images(labelled, validation + test, splits, content, set(run.labels))
    if not old:
        raise DhoxError(
            f"{root} has no training image of the run, and without one the old classes cannot be held.",
            "Give --data DATA with a train split of the old classes.",
        )
    notes = [f"{n_shared} images of the class lay in DATA without a label of it and now have it"] * bool(n_shared)
    splits["train"] = splits["train"] + new.items
    n_labelled = min(len(labelled), MOST_OLD_IMAGES)
    return Material(new.items, old, n_labelled, validation, test, splits, [*new.notes, *notes])


def _found_again(names: list[str], by_name: dict[str, Item], classes: list[str], root: Path) -> list[Item]:
    """The images of these names. Raises DhoxError where DATA lacks one."""
    missing = [name for name in names if name not in by_name]
    if missing:
        check_labels([item for item in by_name.values() if item.label is not None], classes)
        raise DhoxError(f"{root} lacks {len(missing)} of the run's images, such as {missing[0]}.", "Check --data.")
    return [by_name[name] for name in names]


def _check_same(items: list[Item], known: dict[str, str], images: Images) -> None:
    """Raise DhoxError where images are others than those that the run answered."""
    changed = [item.name for item in items if known.get(item.name, "") != images.seen[item.name].content.hex()]
    if changed:
        raise DhoxError(
            f"{len(changed)} images are no longer those that the run answered, such as {changed[0]}, so its stored "
            "answers say nothing of them.",
            "Restore the images, or train again.",
        )


def _check_apart(known: list[Item], new: NewImages, content: dict[str, bytes], name: str) -> None:
    """Raise DhoxError where an image of the new class is one that the run knows under another."""
    owner = {content[item.name]: item for item in known}
    both = [(item, owner[content[item.name]]) for item in new.items if content[item.name] in owner]
    if both:
        mine, other = both[0]
        others = f", and {len(both) - 1} more are known too" if len(both) > 1 else ""
        raise DhoxError(
            f"{mine.file} is {other.name} of the run, which is {other.label or 'another class'} there, not "
            f"{name}{others}.",
            "Take it out of --images, or mend its label in DATA and train again.",
        )


def _old_images(
    labelled: list[Item], judging: list[Item], splits: Splits, content: dict[str, bytes], labels: set[str]
) -> list[Item]:
    """At most MOST_OLD_IMAGES training images of the run: the labelled ones, then unlabelled ones without their label.
    None that judges, and none that DATA calls by a class which the run does not have."""
    first = spread(labelled, MOST_OLD_IMAGES)
    known: set[Hashable] = {content[item.name] for item in labelled + judging}
    pile = [item for item in splits["train"] + splits["unlabelled"] if item.label is None or item.label in labels]
    rest = without_copies(pile, known, content)
    return first + [replace(item, label=None) for item in spread(rest, MOST_OLD_IMAGES - len(first))]
