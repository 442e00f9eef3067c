"""What bench.json says of the answers: test images, the ledger of every export, golden images. Shares in 0..1."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dhox.artefacts import common
from dhox.artefacts.golden import GoldenResult
from dhox.artefacts.ledger import DeviceRow
from dhox.artefacts.record import Count, Name, NotNegative, Record, Share

Precision = Literal["fp32", "fp16", "bf16", "int8"]


class ClassAccuracy(Record, kw_only=True):
    """One class. `recall`: null without images of it; `precision`: null where it was never answered."""

    name: str
    n: Count
    recall: Share | None
    precision: Share | None


class Paired(Record, kw_only=True):
    """Against the reference's answers on the same images: agreement, images gained and lost, McNemar's exact p."""

    agreement: Share
    gained: Count
    lost: Count
    mcnemar_p: Share
    largest_difference: Annotated[NotNegative | None, Meta(description="of a probability; null: not known")]


class AccuracyRow(common.Accuracy, kw_only=True):
    """Top-1 of one model and runner on the test images, with Wilson's interval."""

    model: Name
    runner: Name
    precision: Precision
    top5: Annotated[Share | None, Meta(description="null with five classes or fewer")]
    per_class: list[ClassAccuracy]
    calibration_error: Annotated[Share | None, Meta(description="expected, of the top probability")]
    nll: Annotated[NotNegative | None, Meta(description="mean negative log-likelihood, nats")]
    confusion: Annotated[list[list[Count]] | None, Meta(description="[true][predicted]; null with many classes")]
    reference: Annotated[Paired | None, Meta(description="against the first row")]

    def __post_init__(self) -> None:
        sides = {len(self.per_class)}
        if self.confusion is not None and {len(self.confusion), *map(len, self.confusion)} != sides:
            raise ValueError("confusion has another number of classes than per_class")


class TestImages(Record, kw_only=True):
    """The test images of now against those that the export's run was judged on; `first`: the first that differs."""

    same: Count
    changed: Annotated[Count, Meta(description="whose bytes are others")]
    missing: Annotated[Count, Meta(description="of the run, and not here")]
    new: Annotated[Count, Meta(description="here, and not of the run")]
    first: str | None

    @property
    def text(self) -> str:
        """For people; empty where they are the same."""
        counts = ((self.changed, "changed since training"), (self.missing, "are missing"), (self.new, "are new"))
        found = ", ".join(f"{count} {what}" for count, what in counts if count)
        return f"The test images are not those of the run: {found}, such as {self.first}" if found else ""


class Accuracy(Record, kw_only=True):
    """Accuracy on the test images. `images`: None where the run had none, or without an export."""

    split: str
    data: Annotated[str | None, Meta(description="address of the images")]
    note: Annotated[str | None, Meta(description="why it was not measured")]
    classes: list[str]
    rows: list[AccuracyRow]
    images: TestImages | None = None


class DeviceLedgerRow(DeviceRow, kw_only=True):
    """One file on the images of its export's ledger, against the export's own answers."""

    model: Name
    runner: Name


class DeviceLedger(Record, kw_only=True):
    """The ledger of an export, completed on this device."""

    export: Annotated[str, Meta(description="its directory")]
    images: Annotated[str | None, Meta(description="which images")] = None
    note: Annotated[str | None, Meta(description="why there are no rows")] = None
    rows: list[DeviceLedgerRow] = msgspec.field(default_factory=list)


class GoldenRow(GoldenResult, kw_only=True):
    """Whether this machine answers on the golden images as the exporting one did."""

    model: Name
    runner: Name
