"""Whether disk and memory hold what a training will say of whole images, before it begins."""

from __future__ import annotations

from pathlib import Path

from dhox.artefacts.files import LARGEST_JSON, free_bytes
from dhox.distill.images.sets import Sets
from dhox.distill.teachers.targets import WholeSets
from dhox.errors import DhoxError
from dhox.system.machine import available_memory

GB = 1e9
NAME_BYTES = 12  # of a name in run.json, beside its letters


def check_room(sets: Sets, whole: WholeSets, classes: int, out: Path) -> None:
    """Raise DhoxError where the logits of the whole images, or their names, are too many for the run directory `out`.

    Logits are float32: both heads' of every whole image, and the teacher's of validation. They are in memory together
    when alpha and beta are chosen.
    """
    of_val, others = len(whole.validation), len(whole.test) + len(whole.unlabelled)
    need = 4 * classes * (3 * of_val + 2 * others)
    for free, where in ((free_bytes(out), f"the disk of {out} has"), (available_memory(), "this machine has")):
        if free is not None and need > free:
            raise DhoxError(
                f"The logits of {of_val:,} validation, {len(whole.test):,} test and {len(whole.unlabelled):,} "
                f"unlabelled images with {classes:,} classes take {need / GB:.1f} GB, on the disk and in memory; "
                f"{where} {free / GB:.1f} GB free.",
                "Give DATA fewer validation and test images, or train where there is more.",
            )
    names = sum(len(item.name.encode()) + NAME_BYTES for item in sets.labelled + sets.validation)
    if names > LARGEST_JSON:
        raise DhoxError(
            f"run.json would list {len(sets.labelled):,} labelled and {len(sets.validation):,} validation images in "
            f"{names:,} bytes, and {LARGEST_JSON:,} are the most that it may have.",
            "Lower --shots or --label-fraction, or give DATA fewer validation images.",
        )
