"""Whether images are still those that a run answered."""

from __future__ import annotations

from dhox.artefacts.bench_accuracy import TestImages
from dhox.data.items import Item, content_hash


def changed(items: list[Item], known: dict[str, str]) -> list[str]:
    """The names of images whose bytes are no longer those of `known` (name -> SHA-256); others are not looked at."""
    return [item.name for item in items if item.name in known and content_hash(item) != known[item.name]]


def against_run(items: list[Item], known: dict[str, str]) -> TestImages | None:
    """The test images of now against those of the run; None where that had none."""
    if not known:
        return None
    names = {item.name for item in items}
    other, missing = changed(items, known), [name for name in known if name not in names]
    new = [name for name in names if name not in known]
    first = [*other, *missing, *sorted(new)]
    return TestImages(
        same=len(items) - len(other) - len(new), changed=len(other), missing=len(missing), new=len(new),
        first=first[0] if first else None,
    )  # fmt: skip
