"""The options of `dhox distill`, and those that `dhox audit`, `cache`, `retune` and `import-dho` share with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from msgspec import Meta

from dhox.distill.teachers.templates import ENSEMBLES, template_list
from dhox.distill.training.trackers import check_clients
from dhox.errors import UsageError
from dhox.options.declare import AtLeastOne, Group, Natural, NotNegative, Option, Options, Share, replaced

Method = Literal["dho", "sho", "ce", "kd"]
Adapter = Literal["none", "probe", "tip", "tip-f"]
METHODS = {  # (trains on labels, trains on the teacher)
    "dho": (True, True), "sho": (True, True), "ce": (True, False), "kd": (False, True),
}  # fmt: skip
LOGS = ("tensorboard", "csv", "mlflow", "wandb")
Metric = Literal["accuracy", "balanced", "macro-f1"]
Pixels = Annotated[int, Meta(ge=8)]
AtLeastTwo = Annotated[int, Meta(ge=2)]
AboveZero = Annotated[float, Meta(ge=0.01)]

# Options of several commands.
TeacherName = Annotated[
    str, Option("OpenCLIP model: ARCHITECTURE/TAG, hf-hub:ORG/MODEL or local-dir:PATH.", metavar="MODEL", common=True)
]
DEFAULT_TEACHER = "ViT-B-16/datacomp_xl_s13b_b90k"
Template = Annotated[
    tuple[str, ...],
    Option("Prompt template with {} for the class name; repeatable.", shown="those of --templates", metavar="TEXT"),
]
Templates = Annotated[
    str | None,
    Option(
        "Several templates: open_clip's 7 (simple), its 80 for ImageNet (imagenet), or a file with one per line.",
        shown="simple", metavar="NAME|FILE",
    ),
]  # fmt: skip
Classes = Annotated[
    Path | None, Option("Class list: a line is a label, or label,prompt name.", shown="train's folders")
]
Shots = Annotated[
    AtLeastOne | None,
    Option("Labelled images per class; the rest of train is unlabelled.", shown="all of train", common=True),
]
SplitSeed = Annotated[Natural, Option("Which images are labelled.")]
Views = Annotated[AtLeastOne, Option("Augmented views per image that the teacher embeds.")]
ViewSeed = Annotated[Natural, Option("Crops and flips; one cache serves all seeds.")]
MetricOption = Annotated[Metric, Option("What alpha, beta and the fold's r maximise on validation.")]
Alpha = Annotated[Share | None, Option("Weight of the CE head, instead of the search (with --beta).", shown="searched")]
Beta = Annotated[
    AboveZero | None, Option("Temperature of the KD head, instead of the search (with --alpha).", shown="searched")
]
Device = Annotated[Literal["auto", "cpu", "cuda"], Option("Where to compute.", how=True)]
Workers = Annotated[Natural | None, Option("Processes that decode images.", shown="cores - 2, at most 8", how=True)]
SkipBadImages = Annotated[bool, Option("Continue without unreadable images.")]
Overwrite = Annotated[bool, Option("Replace an output directory of the same kind.", how=True)]


GroupBy = Annotated[
    str | None,
    Option("Pattern whose first group, searched in an image's name, is its camera or recording.", metavar="REGEX"),
]
TeacherScale = Annotated[
    AboveZero | None, Option("Factor of its cosines; embedding files need it.", shown="the checkpoint's")
]
TeacherEmbeddings = Annotated[
    Path | None, Option("Embeddings computed elsewhere, one row per manifest row (.npy, .safetensors).")
]
ClassEmbeddings = Annotated[Path | None, Option("Text embeddings of the classes for --teacher-embeddings.")]
Part = Annotated[float, Meta(ge=0, le=0.8)]


class Labels(Group):
    """Labels and classes"""

    labels: Annotated[
        Path | None, Option("Manifest of labels beside DATA, as dhox label writes it.", metavar="FILE", common=True)
    ] = None
    shots: Shots = None
    label_fraction: Annotated[Share | None, Option("Labelled share of each class instead of --shots.")] = None
    label_sampler: Annotated[
        Literal["dhox", "few-shot-reference", "percent-reference"],
        Option("How labelled images are drawn; the DHO authors' two ignore --split-seed."),
    ] = "dhox"
    val_fraction: Annotated[
        Part | None, Option("Share of each class of train to validate on, where DATA has no val.", shown="none")
    ] = None
    test_fraction: Annotated[
        Part | None, Option("Share of each class of train to test on, where DATA has no test.", shown="none")
    ] = None
    split_seed: SplitSeed = 0
    balance_labels: Annotated[bool, Option("Draw every class equally often from the labelled images.")] = False
    classes: Classes = None
    group_by: GroupBy = None
    skip_bad_images: SkipBadImages = False

    @property
    def draws_splits(self) -> bool:
        """Whether validation or test images are drawn from train."""
        return bool(self.val_fraction or self.test_fraction)

    @property
    def makes_splits(self) -> bool:
        """Whether the splits of the training are others than DATA's own."""
        return self.draws_splits or self.labels is not None

    def need_every_class(self, uses_teacher: bool) -> bool:
        """Whether a class without a labelled image is a mistake: no teacher teaches it, or DATA's labels are all."""
        return self.labels is None or not uses_teacher


class Teacher(Group):
    """The teacher"""

    teacher: TeacherName = DEFAULT_TEACHER
    teacher_scale: TeacherScale = None
    template: Template = ()
    templates: Templates = None
    views: Views = 8
    view_seed: ViewSeed = 0
    adapter: Annotated[
        Adapter | None,
        Option(
            "A teacher that learns from the labelled images: a linear probe that starts at the class texts (probe), "
            "Tip-Adapter (tip), or with trained keys (tip-f).", shown="probe, where it can",
        ),
    ] = None  # fmt: skip
    teacher_temperature: Annotated[
        AboveZero, Option("Temperature of its targets; the student's is 2, and the paper takes 2 for both.")
    ] = 1.0
    top_k: Annotated[AtLeastTwo | None, Option("Distil its k most likely classes of each image.", shown="all")] = None
    teacher_embeddings: TeacherEmbeddings = None
    class_embeddings: ClassEmbeddings = None
    teacher_logits: Annotated[Path | None, Option("Logits computed elsewhere, one row per manifest row.")] = None
    online_teacher: Annotated[bool, Option("No cache: a teacher forward at every step (slow, for comparison).")] = False

    @property
    def from_files(self) -> bool:
        """Whether the teacher was run elsewhere."""
        return self.teacher_embeddings is not None or self.teacher_logits is not None


class Student(Group):
    """The student"""

    student: Annotated[
        str,
        Option(
            "Any timm model, or an OpenCLIP image tower: open_clip:ARCHITECTURE/TAG, open_clip:hf-hub:ORG/MODEL, "
            "open_clip:local-dir:PATH.", metavar="MODEL", common=True,
        ),
    ] = "resnet18"  # fmt: skip
    image_size: Annotated[Pixels | None, Option("Its input in pixels.", shown="the student's", common=True)] = None
    decode: Annotated[
        Literal["full", "scaled"],
        Option(
            "scaled: large JPEGs are decoded at 1/2, 1/4 or 1/8, still twice as large as the input; in training and "
            "by its exports."
        ),
    ] = "full"
    student_weights: Annotated[str, Option("Where it starts: pretrained, none, or a file.", metavar="NAME|FILE")] = (
        "pretrained"
    )
    kd_head: Annotated[
        Literal["linear", "cosine-paper", "cosine-code"],
        Option("W z + b; 100 (W/|W|)(z/|z|); or 100 (W z/|z| + b) as the authors' code."),
    ] = "linear"
    init_heads: Annotated[
        Literal["random", "text", "text-code"],
        Option(
            "text: the class text embeddings of an OpenCLIP student's own text tower; text-code: in their own length, "
            "as the authors' code."
        ),
    ] = "random"
    init_from: Annotated[Path | None, Option("Run directory of an earlier student to start from.")] = None


class Training(Group):
    """Training"""

    method: Annotated[
        str,
        Option(
            "dho: two heads; sho: one head, both losses; ce: labels only; kd: teacher only. Several, with commas: "
            "compare them.", metavar="NAME[,...]", common=True,
        ),
    ] = "dho"  # fmt: skip
    epochs: Annotated[AtLeastOne | None, Option("Passes over the images.", shown="30", common=True)] = None
    steps: Annotated[
        AtLeastOne | None,
        Option("Training steps instead of --epochs: the whole epochs that hold them.", shown="epochs"),
    ] = None
    learning_rate: Annotated[
        NotNegative | None,
        Option("AdamW's peak learning rate.", shown="1e-3, from random weights 3e-3", common=True),
    ] = None
    epoch_over: Annotated[Literal["unlabelled", "labelled"], Option("Which images an epoch passes over once.")] = (
        "unlabelled"
    )
    batch_labelled: Annotated[
        AtLeastOne | None, Option("Labelled images per step.", shown="64; 32 or 16 of few images")
    ] = None
    batch_unlabelled: Annotated[
        AtLeastOne | None, Option("Unlabelled images per step.", shown="192; 96 or 48 of few images")
    ] = None
    weight_decay: Annotated[NotNegative, Option("AdamW's weight decay.")] = 0.01
    warm_up: Annotated[Share, Option("Share of the steps with a rising learning rate.")] = 0.1
    schedule: Annotated[Literal["cosine", "linear"], Option("How the learning rate falls to 0.")] = "cosine"
    seed: Annotated[Natural, Option("Weights, order and drawn views.")] = 0
    seeds: Annotated[
        AtLeastOne | None, Option("Compare over so many seeds, from --seed and --split-seed on.", shown="1")
    ] = None
    probe_gradients: Annotated[
        Natural, Option("Measure the conflict of the two losses' gradients every so many steps.", shown="never")
    ] = 0

    @property
    def uses(self) -> tuple[bool, bool]:
        """(whether labels train the student, whether the teacher does), of a single method."""
        return METHODS[self.method]

    @property
    def methods(self) -> list[Method]:
        """The methods to train; one, unless they are to be compared."""
        return cast(list[Method], self.method.split(","))

    @property
    def compares(self) -> bool:
        """Whether several trainings are to be compared."""
        return len(self.methods) > 1 or self.seeds is not None


class Choosing(Group):
    """What alpha and beta are"""

    tune_on: Annotated[
        Literal["val", "held-out", "none"],
        Option("What chooses alpha and beta: DATA's val, 20 % of the labelled images, or nothing (they stay fixed)."),
    ] = "val"
    metric: MetricOption = "accuracy"
    alpha: Alpha = None
    beta: Beta = None

    @property
    def fixed(self) -> tuple[float, float] | None:
        """(alpha, beta) of the user; None where they are searched."""
        return None if self.alpha is None or self.beta is None else (self.alpha, self.beta)


class Speed(Group):
    """Speed and memory"""

    device: Device = "auto"
    precision: Annotated[
        Literal["32-true", "bf16-mixed"] | None,
        Option("Lightning Fabric precision.", shown="bf16-mixed on CUDA, else 32-true"),
    ] = None
    compiled: Annotated[bool | None, Option("torch.compile.", shown="on CUDA", flags="--compile/--no-compile")] = None
    packed_size: Annotated[
        Natural | None,
        Option("Side of the packed images in pixels; 0: decode in every epoch.", shown="1.43 x --image-size"),
    ] = None
    workers: Workers = None
    cache: Annotated[
        Path | None, Option("Where teacher caches and packed images are kept.", shown="OUT/../cache", how=True)
    ] = None


class Output(Group):
    """Output"""

    log: Annotated[
        str,
        Option(
            "Where epochs are logged beside metrics.csv: tensorboard, mlflow, wandb; csv: nowhere else.",
            metavar="NAME,NAME", how=True,
        ),
    ] = "tensorboard"  # fmt: skip
    resume: Annotated[bool, Option("Continue an interrupted training of the same settings.", how=True)] = False
    overwrite: Overwrite = False

    @property
    def trackers(self) -> tuple[str, ...]:
        """What --log names, each once."""
        return tuple(dict.fromkeys(name.strip() for name in self.log.split(",")))


class DistillOptions(Options):
    """The options of `dhox distill`."""

    labels: Labels = Labels()
    teacher: Teacher = Teacher()
    student: Student = Student()
    training: Training = Training()
    choosing: Choosing = Choosing()
    speed: Speed = Speed()
    output: Output = Output()


def worker_count(workers: int | None) -> int:
    """Decoding processes: those of the user, else the cores that training leaves, at most 8."""
    return max(0, min(8, (os.cpu_count() or 1) - 2)) if workers is None else workers


# kd uses no label, so nothing can be drawn or held out for it.
NO_LABELS: dict[str, Any] = {
    "shots": None, "label_fraction": None, "label_sampler": "dhox", "tune_on": "val", "adapter": "none",
    "balance_labels": False,
}  # fmt: skip

# ce has no teacher.
NO_TEACHER: dict[str, Any] = {
    "adapter": None, "top_k": None, "teacher_temperature": Teacher().teacher_temperature, "teacher_embeddings": None,
    "class_embeddings": None, "teacher_logits": None, "teacher_scale": None, "online_teacher": False,
}  # fmt: skip
NOT_USED: dict[Method, dict[str, Any]] = {"kd": NO_LABELS, "ce": NO_TEACHER}


def single(options: DistillOptions, method: Method, i: int = 0) -> DistillOptions:
    """The options of one training of a comparison.

    Seed i adds i to `seed` (weights, order) and to `split_seed` (which images are labelled), so that the interval over
    seeds covers both.
    """
    return replaced(
        options, method=method, seeds=None, seed=options.training.seed + i, split_seed=options.labels.split_seed + i,
        kd_head=options.student.kd_head if method == "dho" else "linear",  # of their one head
        **NOT_USED.get(method, {}),
    )  # fmt: skip


def check(options: DistillOptions) -> None:
    """Raise UsageError for options that exclude each other, and for those that a method lacks or does not use."""
    labels, teacher, training = options.labels, options.teacher, options.training
    methods = set(training.methods)
    unknown = sorted(methods - METHODS.keys())
    if unknown:
        raise UsageError(f"--method {unknown[0]} is unknown.", f"Use one of: {', '.join(METHODS)}.")
    if len(methods) < len(training.methods):
        raise UsageError(f"--method {training.method} names a method twice.", "Name each once; --seeds repeats them.")
    if training.steps is not None and training.epochs is not None:
        raise UsageError("--steps and --epochs both say how long to train.", "Give one of them.")
    _check_pairs(options)
    check_labels(labels, uses_labels=methods != {"kd"})
    if methods == {"kd"} and options.choosing.tune_on == "held-out":
        raise UsageError("--method kd uses no label.", "Leave --tune-on held-out out.")
    if teacher.adapter not in {None, "none"} and (not methods & {"dho", "sho"} or teacher.teacher_logits is not None):
        raise UsageError(
            "--adapter needs labels and a teacher's embeddings.",
            "Give --method dho or sho, and --teacher or --teacher-embeddings.",
        )
    if training.probe_gradients and not methods <= {"dho", "sho"}:
        raise UsageError("--probe-gradients compares two losses.", "Use it with --method dho or sho.")
    _check_log(options.output)
    idle = teacher.from_files or teacher.online_teacher or teacher.top_k is not None
    if methods == {"ce"} and (idle or teacher.teacher_temperature != Teacher().teacher_temperature):
        raise UsageError("--method ce has no teacher.", "Leave the teacher's options out, or choose another method.")


def _check_log(output: Output) -> None:
    """Raise UsageError for a name that --log does not know, and DhoxError where the client of one cannot be used."""
    for name in output.trackers:
        if name not in LOGS:
            raise UsageError(f"--log {name} is unknown.", f"Use one or more of: {', '.join(LOGS)}.")
    check_clients(output.trackers)


def check_labels(labels: Labels, *, uses_labels: bool) -> None:
    """Raise UsageError for a draw of labelled images that is not whole, or that nothing uses."""
    if not uses_labels and (labels.shots, labels.label_fraction, labels.label_sampler) != (None, None, "dhox"):
        raise UsageError("--method kd uses no label.", "Leave --shots, --label-fraction and --label-sampler out.")
    if labels.shots is not None and labels.label_fraction is not None:
        raise UsageError("--shots and --label-fraction both choose the labelled images.", "Give one of them.")
    if labels.label_fraction == 0:
        raise UsageError("--label-fraction 0 leaves no label.", "Use --method kd to train without labels.")
    if labels.label_sampler == "few-shot-reference" and labels.shots is None:
        raise UsageError("--label-sampler few-shot-reference draws --shots images of each class.", "Add --shots.")
    if labels.label_sampler == "percent-reference" and labels.label_fraction is None:
        raise UsageError("--label-sampler percent-reference draws a share of all images.", "Add --label-fraction.")


def check_teacher(teacher: Teacher) -> None:
    """Raise UsageError for options of the teacher that need or exclude each other."""
    if (teacher.teacher_embeddings is None) != (teacher.class_embeddings is None):
        raise UsageError("--teacher-embeddings and --class-embeddings belong together.", "Give both.")
    if teacher.teacher_logits is not None and teacher.teacher_embeddings is not None:
        raise UsageError("--teacher-logits and --teacher-embeddings are two teachers.", "Give one of them.")
    if teacher.from_files:
        _check_files(teacher)
    if teacher.online_teacher and teacher.from_files:
        raise UsageError("--online-teacher runs a teacher, and the files stand for one.", "Leave one of them out.")
    if teacher.templates is not None and teacher.template:
        raise UsageError("--templates and --template both choose the prompts.", "Give one of them.")
    if teacher.template or (teacher.templates is not None and teacher.templates not in ENSEMBLES):
        template_list(teacher.templates, list(teacher.template))


def _check_files(teacher: Teacher) -> None:
    """Raise UsageError for options that cannot act where the teacher was run elsewhere, and for a missing scale."""
    what = "--teacher-logits" if teacher.teacher_logits is not None else "--teacher-embeddings"
    idle = {
        "--teacher": teacher.teacher != DEFAULT_TEACHER, "--templates": teacher.templates is not None,
        "--template": bool(teacher.template),
        "--teacher-scale": teacher.teacher_logits is not None and teacher.teacher_scale is not None,
    }  # fmt: skip
    for option, given in idle.items():
        if given:
            raise UsageError(f"{what} stands for a teacher, and {option} cannot act.", f"Leave {option} out.")
    if teacher.teacher_embeddings is not None and teacher.teacher_scale is None:
        raise UsageError(
            "--teacher-embeddings says nothing of the factor of its cosines.",
            "Give --teacher-scale: exp(logit_scale) of that model, 100 for OpenAI's and most of OpenCLIP's.",
        )


def _check_pairs(options: DistillOptions) -> None:
    """Raise UsageError for options that need or exclude another one, whatever the method."""
    choosing = options.choosing
    if (choosing.alpha is None) != (choosing.beta is None):
        raise UsageError("--alpha and --beta belong together.", "Give both, or neither to search them on validation.")
    check_teacher(options.teacher)
