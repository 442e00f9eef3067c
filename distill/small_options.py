"""The options of the commands beside `dhox distill`: audit, cache, retune, suggest, add-class and import-dho."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from dhox.distill.options import (
    DEFAULT_TEACHER,
    AboveZero,
    Alpha,
    Beta,
    ClassEmbeddings,
    Classes,
    Device,
    GroupBy,
    Metric,
    Overwrite,
    Shots,
    SkipBadImages,
    SplitSeed,
    Teacher,
    TeacherEmbeddings,
    TeacherName,
    TeacherScale,
    Template,
    Templates,
    Views,
    ViewSeed,
    Workers,
)
from dhox.errors import UsageError
from dhox.options.declare import AtLeastOne, Group, Natural, NotNegative, Option, Options, Share

Selector = Literal["typiclust", "coreset", "random"]
Positive = Annotated[float, Meta(ge=0.001)]


class Machine(Group):
    """Speed"""

    device: Device = "auto"
    workers: Workers = None


class AuditTeacher(Group):
    """The teacher"""

    teacher: TeacherName = DEFAULT_TEACHER
    small_clip: Annotated[
        tuple[str, ...], Option("A small OpenCLIP model to compare with; repeatable.", metavar="MODEL")
    ] = ()
    template: Template = ()
    templates: Templates = None


class AuditImages(Group):
    """Images"""

    shots: Shots = None
    split_seed: SplitSeed = 0
    labels: Annotated[
        Path | None, Option("Manifest of labels beside DATA, as dhox label writes it.", metavar="FILE", common=True)
    ] = None
    classes: Classes = None
    prompts: Annotated[
        Path | None,
        Option("Other prompt names to try, a class, a tab and a name on each line; by the labels.", metavar="FILE"),
    ] = None
    skip_bad_images: SkipBadImages = False
    overwrite: Overwrite = False


class AuditOptions(Options):
    """The options of `dhox audit`."""

    teacher: AuditTeacher = AuditTeacher()
    images: AuditImages = AuditImages()
    machine: Machine = Machine()


class CacheContent(Group):
    """What is cached"""

    teacher: TeacherName = DEFAULT_TEACHER
    views: Views = 8
    view_seed: ViewSeed = 0
    packed_size: Annotated[
        Natural, Option("Also pack the training images (of --decode full) to this side in pixels.", shown="not")
    ] = 0
    skip_bad_images: SkipBadImages = False


class CacheOptions(Options):
    """The options of `dhox cache`."""

    content: CacheContent = CacheContent()
    machine: Machine = Machine()


class Chosen(Group):
    """What to choose"""

    metric: Annotated[
        Metric | None, Option("What alpha and beta (and r) maximise on validation.", shown="the run's")
    ] = None
    alpha: Alpha = None
    beta: Beta = None

    @property
    def mixture(self) -> tuple[float, float] | None:
        """(alpha, beta) of the user; None where they are searched. Raises UsageError for one of the two."""
        if self.alpha is None and self.beta is None:
            return None
        if self.alpha is None or self.beta is None:
            raise UsageError("--alpha and --beta belong together.", "Give both, or neither to search them.")
        return self.alpha, self.beta


class RetunedExport(Group):
    """Of an export"""

    r: Annotated[
        NotNegative | None,
        Option("With a linear fold: weight of the KD head against the CE head; inf is the KD head alone."),
    ] = None
    tau: Annotated[Positive | None, Option("With a linear fold: temperature.", shown="fitted again")] = None
    data: Annotated[
        Path | None, Option("Where its check images are now, for the ledger.", shown="where the export found them")
    ] = None
    overwrite: Overwrite = False


class RetuneOptions(Options):
    """The options of `dhox retune`."""

    chosen: Chosen = Chosen()
    export: RetunedExport = RetunedExport()


class SuggestImages(Group):
    """What to suggest"""

    n: Annotated[AtLeastOne, Option("Images to label next.", common=True)] = 40
    by: Annotated[
        Selector,
        Option(
            "typiclust: typical images of clusters without a label; coreset: farthest from every label; random.",
            common=True,
        ),
    ] = "typiclust"
    labels: Annotated[
        Path | None, Option("Manifest of the labels so far, as dhox label writes it.", metavar="FILE", common=True)
    ] = None
    classes: Classes = None
    group_by: GroupBy = None
    seed: Annotated[Natural, Option("Another choice of the same kind.")] = 0
    skip_bad_images: SkipBadImages = False


class SuggestField(Group):
    """From the field"""

    from_export: Annotated[
        Path | None,
        Option(
            "Export of a student at work: of the images that it doubts and that are unlike the labelled ones.",
            metavar="EXPORT",
        ),
    ] = None
    images: Annotated[
        Path | None, Option("With --from-export: only these unlabelled images of DATA.", metavar="FIELD", shown="all")
    ] = None


class SuggestTeacher(Group):
    """The teacher"""

    teacher: TeacherName = DEFAULT_TEACHER
    template: Template = ()
    templates: Templates = None
    teacher_scale: TeacherScale = None
    teacher_embeddings: TeacherEmbeddings = None
    class_embeddings: ClassEmbeddings = None

    def as_of_training(self) -> Teacher:
        """The same teacher as distill knows it."""
        return Teacher(
            teacher=self.teacher, template=self.template, templates=self.templates, teacher_scale=self.teacher_scale,
            teacher_embeddings=self.teacher_embeddings, class_embeddings=self.class_embeddings,
        )  # fmt: skip


class SuggestMachine(Group):
    """Speed"""

    device: Device = "auto"
    workers: Workers = None
    cache: Annotated[Path, Option("Where teacher caches are kept.", how=True)] = Path("runs/cache")


class SuggestOptions(Options):
    """The options of `dhox suggest`."""

    what: SuggestImages = SuggestImages()
    field: SuggestField = SuggestField()
    teacher: SuggestTeacher = SuggestTeacher()
    machine: SuggestMachine = SuggestMachine()


class AddedClass(Group):
    """The new class"""

    images: Annotated[Path, Option("Folder of its images; ten are a good start.", metavar="DIR", common=True)]
    max_accuracy_drop: Annotated[
        NotNegative | None,
        Option(
            "Points that the old classes may lose: the new class takes less, and exit 3 where that is not enough.",
            shown="every class weighs the same", common=True,
        ),
    ] = None  # fmt: skip


class OldClasses(Group):
    """The old classes"""

    data: Annotated[Path | None, Option("Where the run's images are now.", shown="where the run found them")] = None
    skip_bad_images: SkipBadImages = False


class AddMachine(Group):
    """Speed and output"""

    device: Device = "auto"
    workers: Workers = None
    overwrite: Overwrite = False


class AddClassOptions(Options):
    """The options of `dhox add-class`."""

    new: AddedClass
    old: OldClasses = OldClasses()
    machine: AddMachine = AddMachine()


class Checkpoint(Group):
    """The checkpoint"""

    arch: Annotated[
        str, Option("Its student: ViT-B-16, ViT-L-14, RN50, resnet18, resnet50 or mobilenetv2.", common=True)
    ]
    classes: Annotated[
        str,
        Option(
            "Class names in the order of its training: imagenet, imagenet-wnid (n01440764 ...) or a file.",
            metavar="NAME|FILE", common=True,
        ),
    ]  # fmt: skip


class Inference(Group):
    """Inference"""

    alpha: Annotated[
        Share | None, Option("Weight of the CE head at inference.", shown="0.5 for CLIP students, else 0.4")
    ] = None
    beta: Annotated[AboveZero | None, Option("Temperature of the KD head at inference.", shown="0.5")] = None
    data: Annotated[Path | None, Option("DATA whose val split judges the folds at export.")] = None
    workers: Workers = None
    overwrite: Overwrite = False


class ImportOptions(Options):
    """The options of `dhox import-dho`."""

    checkpoint: Checkpoint
    inference: Inference = Inference()
