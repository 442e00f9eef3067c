"""Which real images an export is made and proven with: never one of test."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.run_directory import RunDirectory
from dhox.data.dataset import Item, check_labels, class_numbers, data_exists, read_dataset, spread
from dhox.distill.results.validation_parts import selecting_half
from dhox.errors import DhoxError
from dhox.export.folding.fold import gate_images
from dhox.progress import progress_bar
from dhox.runtimes.predict import pixels_of

MOST_CHECK_IMAGES = 2000
MOST_CALIBRATION_IMAGES = 256
MOST_TUNING_IMAGES = 512
GOLDEN_IMAGES = 32
GATING, ALL = "the gating half of validation", "all of validation"
LABELLED = "labelled training images, for want of validation"


@dataclass(frozen=True)
class CheckImages:
    """Real images, none of test.

    `items` with `labels` (int [N], None for unlabelled ones) judge the graphs; `source` says what they are. `golden`
    travel with the export. `calibration`: training images, which show precision conversion the range of every tensor.
    `tuning`, `tuning_labels`: on which precisions are chosen: the selecting half of validation where there are halves.
    `validation`: all of it, none where the run has none.
    """

    items: list[Item]
    labels: np.ndarray | None
    source: str
    golden: list[Item]
    calibration: list[Item]
    tuning: list[Item]
    tuning_labels: np.ndarray | None
    validation: list[Item] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Of the images that judge."""
        return [item.name for item in self.items]


def check_images(source: RunDirectory, data: Path | None) -> CheckImages:
    """The gating validation images; without validation the labelled, without labels the unlabelled training images.

    An imported run without DATA brings synthetic images; with --data it takes what that holds outside test. Images that
    the run skipped as unreadable are left out. Raises DhoxError where images are missing, or there are none.
    """
    run = source.run
    root = data or Path(run.data)
    if not data_exists(root):
        raise DhoxError(f"The run's images are no longer at {root}.", "Say where they are with --data.")
    splits = read_dataset(root, labels=run.labels)
    skipped = set(run.skipped)
    training = [item for item in splits["train"] + splits["unlabelled"] if item.name not in skipped]
    calibration = spread(training or splits["val"], MOST_CALIBRATION_IMAGES)
    if names := run.sets.validation or run.sets.labelled:
        everything = _found_again(names, training + splits["val"], run.labels, root)
        judge = select = np.ones(len(names), bool)
        if run.sets.validation:
            judge, select = gate_images(source.validation), selecting_half(source.validation)
        items, tuning = chosen(everything, judge, MOST_CHECK_IMAGES), chosen(everything, select, MOST_TUNING_IMAGES)
        return CheckImages(
            items, class_numbers(items, run.labels), _said(source, judge), _golden_items(everything, training),
            calibration, tuning, class_numbers(tuning, run.labels), everything if run.sets.validation else [],
        )  # fmt: skip
    items = spread(training or splits["val"], MOST_CHECK_IMAGES)
    if not items:
        raise DhoxError(
            f"{root} has no image outside test to check the graphs with.", "Give --data DATA with train or val."
        )
    synthetic = run.sets.selection in {"imported", "untrained"} and data is None
    said = "synthetic images, for want of real ones" if synthetic else "images, without using their labels"
    return CheckImages(
        items, None, said, _golden_items(items, []), calibration, spread(items, MOST_TUNING_IMAGES), None
    )


def _said(source: RunDirectory, judge: np.ndarray) -> str:
    """What the labelled images are that judge, bool [N], and whether they chose before."""
    if not source.run.sets.validation:
        return LABELLED
    if not judge.all():
        return GATING
    return f"{ALL}, which also chose alpha and beta" if source.selection.searched else ALL


def _found_again(names: list[str], items: list[Item], classes: list[str], root: Path) -> list[Item]:
    """The images of these names. Raises DhoxError where DATA lacks one."""
    by_name = {item.name: item for item in items}
    missing = [name for name in names if name not in by_name]
    if missing:
        check_labels(items, classes)  # renamed classes are the likely reason: they are named
        raise DhoxError(f"{root} lacks {len(missing)} of the run's images, such as {missing[0]}.", "Check --data.")
    return [by_name[name] for name in names]


def chosen(items: list[Item], mask: np.ndarray, most: int) -> list[Item]:
    """At most `most` of the items where bool [N] `mask` is set, spread evenly."""
    return spread([item for item, one in zip(items, mask, strict=True) if one], most)


def _golden_items(items: list[Item], more: list[Item]) -> list[Item]:
    """GOLDEN_IMAGES images spread evenly over `items`, filled up from `more`."""
    first = spread(items, GOLDEN_IMAGES)
    names = {item.name for item in first}
    return first + spread([item for item in more if item.name not in names], GOLDEN_IMAGES - len(first))


def load_pixels(items: list[Item], preprocessing: Preprocessing, description: str) -> np.ndarray:
    """Model inputs of image files, uint8 [N, crop, crop, 3]."""
    with progress_bar(description, len(items)) as advance:
        pixels = []
        for item in items:
            pixels.append(pixels_of([item], preprocessing))
            advance(1)
    return np.concatenate(pixels)
