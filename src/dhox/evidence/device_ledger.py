"""The export's ledger, completed here: the same validation images through the same files on this device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec.structs import replace

from dhox.artefacts.images import ImageHashes
from dhox.artefacts.ledger import DeviceRow, Ledger
from dhox.data.dataset import Item, data_exists, read_dataset
from dhox.evidence.ledger import stage_row
from dhox.evidence.same_images import changed


def ledger_items(data: Path, classes: list[str], ledger: Ledger, images: ImageHashes) -> tuple[list[Item], str | None]:
    """The images of ledger.json found again in DATA, as `images` of the run knows them, or none and the reason."""
    if ledger.labels is None:
        return [], "not run: the export had no labelled images to judge with"
    if not data_exists(data):
        return [], f"not run: no images at {data}. Give --data."
    splits = read_dataset(data, labels=classes)
    by_name = {item.name: item for split in ("val", "train", "unlabelled") for item in splits[split]}
    missing = [name for name in ledger.names if name not in by_name]
    if missing:
        return [], f"not run: {data} lacks {len(missing)} of its images, such as {missing[0]}"
    items = [by_name[name] for name in ledger.names]
    other = changed(items, images.by_name("val"))
    if other:
        return [], f"not run: {len(other)} of its images changed since training, such as {other[0]}"
    return items, None


def device_row(probs: np.ndarray, precision: str, ledger: Ledger, classes: int) -> DeviceRow:
    """One file's row on this device: accuracy, and agreement and McNemar's test against the export's own answers,
    where its ledger has them.

    `probs` [N, C] of the ledger's images. The export stored labels, not probabilities: no largest difference here (the
    golden check has one).
    """
    stage = f"onnx_{precision}"
    answers = ledger.predictions.get(stage)  # type: ignore[call-overload]
    exported = None
    if answers is not None:
        exported = np.zeros((len(answers), classes), np.float32)
        exported[np.arange(len(answers)), answers] = 1
    row = stage_row(DeviceRow, probs, np.array(ledger.labels), exported, stage=stage, precision=precision)
    return replace(row, largest_difference=None)
