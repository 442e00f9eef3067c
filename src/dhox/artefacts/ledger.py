"""ledger.json: the same images through every stage of the line, and where accuracy was lost."""

from __future__ import annotations

from typing import Literal

from dhox.artefacts.common import Accuracy
from dhox.artefacts.record import Count, Kind, NotNegative, Record, Share

LEDGER_FILE = "ledger.json"
Stage = Literal["teacher", "trained", "two_head_torch", "folded_torch", "torch", "onnx_fp32", "onnx_fp16", "onnx_int8"]


class StageRow(Accuracy, kw_only=True):
    """One stage on the ledger's images, and against the stage before.

    `top5`: None with five classes or fewer. `agreement`: share of images with the other stage's label;
    `largest_difference` of a probability; `gained`, `lost`: images; `mcnemar_p`: exact, two-sided. None where there is
    nothing to compare with, or where a probability is not finite.
    """

    stage: Stage
    top5: Share | None
    calibration_error: NotNegative | None
    agreement: Share | None
    largest_difference: NotNegative | None
    gained: Count | None
    lost: Count | None
    mcnemar_p: Share | None


class DeviceRow(StageRow, kw_only=True):
    """A file on another device, against the export's own answers; that ledger holds labels only: no difference."""

    precision: str


class Loss(Record):
    """A stage that lost accuracy: `points` (negative) against the stage before, maybe `beyond_chance`."""

    stage: Stage
    points: float
    mcnemar_p: Share
    beyond_chance: bool


class Ledger(Kind, kw_only=True):
    """The ledger of an export.

    `images`: what they are, in words. `note`: why there are no rows. `names`, `labels`: of the images, in order; labels
    are None for unlabelled images. `predictions`: labels of each stage.
    """

    schema: Literal["dhox.ledger/3"] = "dhox.ledger/3"
    images: str
    note: str | None
    rows: list[StageRow]
    losses: list[Loss]
    names: list[str]
    labels: list[Count] | None
    predictions: dict[Stage, list[Count]]

    def __post_init__(self) -> None:
        answers = [*self.predictions.values(), *([] if self.labels is None else [self.labels])]
        if any(len(listed) != len(self.names) for listed in answers):
            raise ValueError(f"labels and predictions do not belong to the {len(self.names)} names")
        if self.rows and self.labels is None:
            raise ValueError("there are rows, but no labels")

    def check_classes(self, count: int) -> str | None:
        """What is wrong with labels and predictions where there are `count` classes; None where nothing is."""
        largest = max((max(listed, default=0) for listed in [self.labels or [], *self.predictions.values()]), default=0)
        return f"names the class {largest}, and there are {count}" if largest >= count else None
