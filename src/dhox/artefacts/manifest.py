"""manifest.json: what an export holds, how it came about, and what proves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dhox.artefacts.common import Accuracy, Classes, Metric, Preprocessing, StudentEntry, TeacherEntry
from dhox.artefacts.embeddings import EMBEDDINGS_FILE
from dhox.artefacts.ledger import Ledger
from dhox.artefacts.record import (
    AtLeastOne,
    Count,
    FileName,
    Kind,
    Name,
    NotNegative,
    Positive,
    Record,
    Sha256,
    Share,
    ShareInterval,
)
from dhox.artefacts.rehearsal import REHEARSAL_FILE

Precision = Literal["fp32", "fp16", "int8"]
# What a graph takes as `image`: pixels as decoded, the conventional normalised tensor, or (for DeepStream, which scales
# by one factor and knows no standard deviation) planar pixels from 0 to 255.
InputKind = Literal["uint8-nhwc", "float-nchw", "float-nchw-255"]
SIDE_FILES = ("golden.npz", "heads.npz", "val.npz", "images.npz", "ledger.json", "example.py")  # beside the models


def side_files(embedding: bool, rehearsal: bool = False) -> tuple[str, ...]:
    """The files beside the models of an export, with an embedding and a rehearsal or without."""
    return (*SIDE_FILES, *[EMBEDDINGS_FILE] * embedding, *[REHEARSAL_FILE] * rehearsal)


class Fold(Record):
    """What the exported head computes.

    `rule`: single (one-head student), heads (unfolded), exact or linear. alpha and beta are those of DHO inference. The
    linear fold alone has the rest: W = c_ce W_ce + c_kd W_kd; r = c_kd / c_ce (None: infinite) and the temperature tau;
    `tuned_on`: what chose r. `calibrated`: tau fits the labels. `z_norm`: what stands for |z| in the plain fold of a
    cosine KD head, W = c_ce W_ce + (c_kd / z_norm) W_kd.
    """

    rule: Literal["single", "heads", "exact", "linear"]
    alpha: Share
    beta: Positive
    c_ce: NotNegative = 0.0
    c_kd: NotNegative = 0.0
    r: NotNegative | None = None
    tau: Positive | None = None
    tuned_on: Literal["validation", "unlabelled", "inference-weights", "given"] | None = None
    calibrated: bool = False
    z_norm: Positive | None = None


class Evidence(Record):
    """Accuracy of the linear fold minus DHO inference on the same gate images, in points, with its lower bound.

    `images`: gate-half, cross-fitted, or validation where nothing was chosen on it. `lower_bound`: one-sided 95 %.
    """

    images: Literal["gate-half", "cross-fitted", "validation"]
    n: Count
    difference: float
    lower_bound: float
    tolerance: NotNegative
    passed: bool


class ComparisonRow(Accuracy, kw_only=True):
    """One way to answer from the two heads. `head_us`: median time of the head for one image on this CPU."""

    stage: Literal["ce_head", "kd_head", "dho", "exact", "linear_inference_weights", "linear_tuned", "linear_plain"]
    agreement_with_dho: Share
    calibration_error: NotNegative
    head_parameters: Count | None = None
    head_us: Annotated[float, Meta(ge=0, description="microseconds")] | None = None


class Check(Record):
    """A file's answers held `against` others on `n` images. `tolerance`: of a probability; int8 has none."""

    precision: Precision
    runner: str
    against: str
    n: Count
    agreement: Share
    largest_difference: NotNegative
    tolerance: Positive | None


class Reject(Record, kw_only=True):
    """The top probability below which the answer is "unknown".

    `asked`: share of images to be answered. `coverage`, `answered` and `all` (accuracies) are measured on `n` images
    that did not choose the threshold.
    """

    asked: Annotated[float, Meta(gt=0, le=1)]
    threshold: Share
    coverage: Share
    coverage_interval: ShareInterval
    answered: Accuracy
    all: Accuracy
    n: Count
    images: Literal["gate-half", "cross-fitted"]


class Kept(Record):
    """A node that stays fp32. `always`: not because of these images; `largest`: max |x| of its outputs."""

    node: str
    op: str
    why: str
    always: bool
    largest: NotNegative | None


class HalfConversion(Record, tag="half", tag_field="to"):
    """How an fp16 file came about.

    `share`: of convolutions and matrix products that are in half precision. `difference`: largest of a probability to
    fp32 on the `n` calibration images. `before_retuning`: measured with other numbers in the head.
    """

    kept: list[Kept]
    share: Share
    difference: NotNegative
    n: Count
    before_retuning: bool = False


class Returned(Record):
    """A layer that went back to half precision. `damage`: mean KL in nats of the answers when it alone is int8."""

    node: str
    op: str
    damage: float


class Int8Conversion(Record, tag="int8", tag_field="to"):
    """How an int8 file came about.

    `quantised`: nodes with int8 inputs and weights. `share`: their part of the graph's multiply-adds. `drop`: points of
    top-1 lost against fp32 on `n_judge` images (negative: gained), or where these are not `labelled`, the percentage of
    answers that differ. `bound`: its one-sided 95 % upper bound, at most `max_drop`; None in exports that held `drop`
    itself against that. `advice`: a sentence where int8 is not expected to pay.
    """

    quantised: list[str]
    returned: list[Returned]
    share: Share
    method: Literal["minmax", "percentile"]
    n_calibration: Count
    n_judge: Count
    labelled: bool
    max_drop: NotNegative
    drop: float
    advice: str | None
    before_retuning: bool = False
    bound: float | None = None


class Artefact(Record, kw_only=True):
    """One ONNX file. `ir`: its IR version.

    `golden_agreement`: share of golden images with torch's label, for precisions that have no tolerance; else None.
    `placement`: nodes by provider of ONNX Runtime in a run on CUDA, or why that was not run.
    """

    file: FileName
    precision: Precision
    opset: AtLeastOne
    ir: AtLeastOne
    input: InputKind
    bytes: AtLeastOne
    sha256: Sha256
    golden_agreement: Share | None
    placement: dict[str, Count] | str
    conversion: HalfConversion | Int8Conversion | None

    def __post_init__(self) -> None:
        kinds: dict[str, type] = {"fp32": type(None), "fp16": HalfConversion, "int8": Int8Conversion}
        if not isinstance(self.conversion, kinds[self.precision]):
            raise ValueError(f"its conversion is not that of {self.precision}")


class SourceRun(Record):
    """The run that was exported."""

    path: Name
    method: Name
    weights_sha256: Sha256


class RetunedFrom(Record):
    """The export that was retuned. `left_out`: names in its folder that the new one does not have."""

    path: Name
    manifest_sha256: Sha256
    fold: Fold
    left_out: list[str]


class Manifest(Kind, kw_only=True):
    """The manifest of an export.

    `skipped`: images that the run could not read. `data`: where its images are. `n_selection_labels`: labels that chose
    alpha and beta by `metric`, if they were `searched`. `fold_note`: why a way to fold is missing. `checks`: of the
    written files. `reject`: None where every image is answered. `default`: the precision that is taken where none is
    asked for. `files`: SHA-256 of what travels with the models. `environment`: versions. `embedding`: length of the
    graphs' second output; None where they have one alone.
    """

    schema: Literal["dhox.export/3"] = "dhox.export/3"
    status: Literal["complete"] = "complete"
    finished_at: Name
    run: SourceRun
    skipped: list[str]
    data: str
    student: StudentEntry
    teacher: TeacherEntry | None
    classes: Classes
    preprocessing: Preprocessing
    n_selection_labels: Count
    metric: Metric
    fold: Fold
    fold_asked: Literal["auto", "linear", "exact", "keep-heads"]
    fold_note: str | None
    searched: bool
    evidence: Evidence | None
    comparison: list[ComparisonRow]
    checks: list[Check]
    reject: Reject | None
    artefacts: list[Artefact]
    default: Precision
    environment: dict[str, str]
    files: dict[FileName, Sha256]
    retuned_from: RetunedFrom | None = None
    embedding: AtLeastOne | None = None

    def __post_init__(self) -> None:
        precisions = [entry.precision for entry in self.artefacts]
        if "fp32" not in precisions or self.default not in precisions or len(set(precisions)) < len(precisions):
            raise ValueError(f"artefacts holds {', '.join(precisions) or 'nothing'}, and default is {self.default}")
        lacking = set(side_files(self.embedding is not None)) - self.files.keys()
        if lacking:
            raise ValueError(f"files lacks {sorted(lacking)[0]}")
        if [entry.id for entry in self.classes] != list(range(self.student.classes)):
            raise ValueError(f"classes are not the {self.student.classes} of the student in the order of their id")

    @property
    def names(self) -> list[str]:
        """The classes' names in index order."""
        return [entry.name for entry in self.classes]


@dataclass(frozen=True)
class ExportResult:
    """An export directory with its manifest and its ledger."""

    export: Path
    manifest: Manifest
    ledger: Ledger


def model_metadata(names: list[str], preprocessing: Preprocessing, fold: Fold) -> dict[str, Any]:
    """What an ONNX file of dhox says of itself, as plain values of JSON. `names`: of the classes in index order."""
    content = {"classes": names, "preprocessing": preprocessing, "fold": fold}
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(content))
    return plain
