"""drift.json: what field images without labels say of an export."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dhox.artefacts.common import Accuracy, Versions
from dhox.artefacts.record import AtLeastOne, Count, Kind, Name, NotNegative, Record, Share, ShareInterval

BINS = 20  # of the histograms of confidence, of equal width in [0, 1]


Method = Literal["atc-by-class", "rehearsed"]


class ShiftTest(Record, kw_only=True):
    """One test of whether the field answers are distributed as the validation answers are."""

    what: Literal["confidence", "classes", "unlike"]
    test: str
    statistic: float
    p: Share
    adjusted_p: Annotated[Share, Meta(description="for the number of tests (Holm)")]
    alarm: Annotated[bool, Meta(description="adjusted_p is at most 0.05")]


class Estimate(Record, kw_only=True):
    """Accuracy on the field images, estimated without labels.

    `interval`: 95 %, sampling and the error of the method; `sampling_interval`: the bootstrap alone. `drop`: to
    validation, in points; `drop_bound`: its one-sided 95 % bound, of sampling alone. `atc`, `doc`: other estimates.
    """

    accuracy: Share
    interval: ShareInterval
    sampling_interval: ShareInterval
    drop: float
    drop_bound: float
    reweighted: Annotated[bool, Meta(description="validation was weighted to the class shares of the field")]
    atc: Share
    doc: Share
    method: Annotated[
        Method, Meta(description="what accuracy rests on: thresholds by class, or a regression over rehearsed shifts")
    ] = "atc-by-class"


class ClassShift(Record, kw_only=True, rename={"class_": "class"}):
    """One predicted class. `right`: of the validation answers; `estimated_right`: of the field answers."""

    class_: Name
    reference: Annotated[Count, Meta(description="validation answers")]
    field: Annotated[Count, Meta(description="field answers")]
    right: Share | None
    estimated_right: Share | None


class Rejected(Record, kw_only=True):
    """Answers below the export's reject threshold."""

    threshold: Share
    reference: Share
    field: Share
    field_interval: ShareInterval


class FieldImage(Record, kw_only=True):
    """One field image. `frame`: of a video. `similarity`: cosine to its nearest validation images."""

    path: str
    frame: Count | None
    predicted: Name
    confidence: Share
    similarity: Annotated[float, Meta(ge=-1.01, le=1.01)] | None = None


class Unlike(Record, kw_only=True):
    """Field images that are less like the reference images than almost all of these are like each other.

    By the mean cosine of embeddings to the `neighbours` nearest reference images; `threshold`: what the share
    `reference` of the `n_reference` images do not reach among the others.
    """

    neighbours: AtLeastOne
    threshold: float
    n_reference: Count
    reference: Share
    field: Share
    field_interval: ShareInterval
    images: Annotated[list[FieldImage], Meta(description="the most unlike, first first")]


class Unreadable(Record):
    """Images without an answer; the first are named, with the reason."""

    n: Count
    first: list[str]


class Drift(Kind, kw_only=True):
    """drift.json."""

    schema: Literal["dhox.drift/1"] = "dhox.drift/1"
    status: Literal["complete"] = "complete"
    finished_at: Annotated[Name, Meta(description="UTC, ISO 8601")]
    export: str
    model: Annotated[str, Meta(description="the file that answered, and the beginning of its SHA-256")]
    images: Annotated[list[str], Meta(description="where the field images or answers are from")]
    of_answers: Annotated[bool, Meta(description="the images were answers of predict, no pixels")]
    n_reference: AtLeastOne
    n: AtLeastOne
    unreadable: Unreadable
    reference_accuracy: Accuracy
    labelled: Annotated[Accuracy | None, Meta(description="of field images whose label is known; not used")]
    tests: list[ShiftTest]
    shifted: bool
    changed: Annotated[Share, Meta(description="share of answers that went to other classes")]
    estimate: Estimate
    mean_confidence: Annotated[tuple[Share, Share], Meta(description="validation, field")]
    reference_histogram: list[Count]
    field_histogram: list[Count]
    classes: Annotated[list[ClassShift], Meta(description="in class order")]
    rejected: Rejected | None
    unlike: Unlike | None
    least_confident: list[FieldImage]
    examples: Annotated[list[FieldImage], Meta(description="least sure of the classes that grew most")]
    max_estimated_drop: NotNegative | None
    notes: list[str]
    seed: int
    environment: Versions

    def __post_init__(self) -> None:
        if len(self.reference_histogram) != BINS or len(self.field_histogram) != BINS:
            raise ValueError(f"a histogram has not {BINS} bins")
        if sum(row.field for row in self.classes) != self.n:
            raise ValueError(f"classes hold not the {self.n} field answers")
