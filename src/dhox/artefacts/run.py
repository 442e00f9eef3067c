"""run.json: what a training was, and what its student answers on test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from dhox.artefacts.common import Accuracy, Classes, Preprocessing, StudentEntry, TeacherEntry, Versions, check_classes
from dhox.artefacts.files import RUN_FILE, RUN_SCHEMA, partial_directory, settle
from dhox.artefacts.record import (
    AtLeastOne,
    Count,
    FileName,
    Kind,
    Name,
    NotNegative,
    Record,
    Sha256,
    Share,
    read_record,
)
from dhox.errors import DhoxError, not_there

Method = Literal["dho", "sho", "ce", "kd", "untrained"]
Source = Literal["val", "held-out", "none", "given", "imported", "untrained"]  # of the validation images
Settings = dict[str, bool | int | float | str | list[str] | None]  # option -> value


class SetsSummary(Record, kw_only=True):
    """Which images were what. Names are listed where an image folder alone would not tell."""

    n_labelled: Count
    n_unlabelled: Count
    n_validation: Count
    n_test: Count
    selection: Annotated[Source, Meta(description="where validation comes from")]
    labelled: Annotated[list[str], Meta(description="names of the labelled images")]
    validation: Annotated[list[str], Meta(description="names of the validation images")]
    label_sampler: str = "dhox"
    tune_on: str = "val"
    group_by: str | None = None

    def __post_init__(self) -> None:
        for name in ("labelled", "validation"):
            if len(getattr(self, name)) != getattr(self, f"n_{name}"):
                raise ValueError(f"{name} does not list n_{name} images")


class Training(Record, kw_only=True):
    """How the student was trained."""

    epochs: AtLeastOne
    epoch_steps: Annotated[AtLeastOne, Meta(description="steps of an epoch")]
    batch_labelled: Annotated[Count, Meta(description="labelled images per step, over all processes")]
    batch_unlabelled: Annotated[Count, Meta(description="unlabelled images per step, over all processes")]
    learning_rate: NotNegative
    weight_decay: NotNegative
    warm_up: Annotated[Share, Meta(description="share of the steps")]
    schedule: Literal["cosine", "linear"]
    views: Annotated[AtLeastOne, Meta(description="views per training image")]
    packed_size: Annotated[Count, Meta(description="side of the packed images, pixels; 0: decoded at every use")]
    seed: int
    split_seed: int
    view_seed: int
    precision: Annotated[Name, Meta(description="of Lightning Fabric")]
    device: Name
    processes: AtLeastOne


class Imported(Record):
    """A checkpoint of the DHO authors' code."""

    file: str
    sha256: str
    stored: Annotated[dict[str, float], Meta(description="numbers that it holds beside the weights")]


class HeldClasses(Record, kw_only=True):
    """What the old classes keep: right answers of the same images before and after a class was added."""

    images: Annotated[Literal["test", "validation"], Meta(description="of the old classes alone")]
    before: Accuracy
    after: Accuracy
    gained: Annotated[Count, Meta(description="images right after alone")]
    lost: Annotated[Count, Meta(description="images right before alone")]

    def __post_init__(self) -> None:
        if self.before.n != self.after.n or self.after.correct - self.before.correct != self.gained - self.lost:
            raise ValueError("before, after, gained and lost are not of the same images")


class Added(Record, kw_only=True):
    """A class that joined the heads of a finished student: the backbone and the other rows are those of `run`."""

    name: Name
    run: Annotated[str, Meta(description="the run before, absolute")]
    weights_sha256: Annotated[Sha256, Meta(description="of its student.safetensors")]
    images: Annotated[str, Meta(description="the folder of new images, absolute")]
    n_images: AtLeastOne
    n_old: Annotated[AtLeastOne, Meta(description="training images that held the old classes")]
    recall: Annotated[Accuracy, Meta(description="of the new images, each by rows that did not see it")]
    old: Annotated[HeldClasses | None, Meta(description="null without test and validation images")]


TestStage = Literal["teacher", "ce_head", "kd_head", "dho_fixed", "dho", "student"]


class StageAccuracy(Accuracy, kw_only=True):
    """One way to answer the test images."""

    stage: TestStage


class Run(Kind, kw_only=True):
    """run.json of a finished training."""

    schema: Literal["dhox.run/1"] = "dhox.run/1"
    status: Literal["complete"] = "complete"
    finished_at: Annotated[Name, Meta(description="UTC, ISO 8601")]
    method: Method
    data: Annotated[str, Meta(description="DATA, absolute where it is a path")]
    classes: Classes
    sets: SetsSummary
    teacher: TeacherEntry | None
    student: StudentEntry
    preprocessing: Preprocessing
    training: Annotated[Training | None, Meta(description="null where dhox did not train")]
    test: Annotated[list[StageAccuracy] | None, Meta(description="null without test images")]
    skipped: Annotated[list[str], Meta(description="images that could not be read")]
    notes: list[str]
    environment: Versions
    imported: Imported | None = None
    added: Annotated[list[Added], Meta(description="classes that joined after the training, the last one last")] = (
        field(default_factory=list)
    )
    settings: Annotated[Settings | None, Meta(description="every option that decides the result")] = None
    files: Annotated[dict[FileName, Sha256], Meta(description="SHA-256 of the files beside it")] = field(
        default_factory=dict
    )
    retuned_at: Annotated[str | None, Meta(description="UTC, ISO 8601; null: alpha and beta are the first")] = None

    def __post_init__(self) -> None:
        check_classes(self.classes)
        if self.student.classes != len(self.classes):
            raise ValueError(f"the student has {self.student.classes} classes, the run {len(self.classes)}")
        if self.student.image_size != self.preprocessing.crop:
            raise ValueError(f"the student's image_size {self.student.image_size} is not the crop of the preprocessing")
        if self.method != "untrained" and self.student.two_heads != (self.method == "dho"):
            raise ValueError(f"a student of the method {self.method} cannot have two_heads {self.student.two_heads}")
        if [one.name for one in self.added] != self.labels[len(self.classes) - len(self.added) :]:
            raise ValueError("the added classes are not the last ones")
        if any(row.n != self.sets.n_test for row in self.test or []):
            raise ValueError("the rows of test are not of n_test images")

    @property
    def labels(self) -> list[str]:
        """The names of the classes, in index order."""
        return [entry.name for entry in self.classes]


class RunState(Kind, kw_only=True):
    """What every run.json says, that of an unfinished training too."""

    schema: Literal["dhox.run/1"] = "dhox.run/1"
    status: Literal["running", "diverged", "complete"]
    settings: Annotated[Settings | None, Meta(description="null: nothing was trained yet")] = None


def read_run(path: Path) -> Run:
    """run.json of a finished run directory. Raises DhoxError for anything else, and says which."""
    settle(path, RUN_FILE, RUN_SCHEMA)
    partial = partial_directory(path)
    if not (path / RUN_FILE).exists():
        if (partial / RUN_FILE).exists():
            raise DhoxError(
                f"The training of {path} was interrupted ({partial} is unfinished).", "Run dhox distill again."
            )
        if not path.exists():
            raise not_there(path, "Give the directory that dhox distill wrote.")
        raise DhoxError(f"{path} is not a run directory: no {RUN_FILE}.", "Give the directory that dhox distill wrote.")
    if read_record(path / RUN_FILE, RunState).status != "complete":
        raise DhoxError(f"The training in {path} was interrupted.", "Run dhox distill again.")
    return read_record(path / RUN_FILE, Run)
