"""`dhox distill`: DATA to a run directory, step by step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import timm
import torch
from lightning_fabric import Fabric

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.common import Preprocessing, StudentEntry, class_entries
from dhox.artefacts.files import CHECKPOINT, RUN_FILE, RUN_SCHEMA, check_output, partial_directory
from dhox.artefacts.images import IMAGES_FILE, ImageHashes
from dhox.artefacts.logits import TEST_FILE, VAL_FILE, HeadLogits, Logits
from dhox.artefacts.record import read_record, write_record
from dhox.artefacts.run import Run, RunState, Settings, Training
from dhox.artefacts.run_directory import SPLITS_FILE, write_run_file
from dhox.artefacts.selection import SELECTION_FILE, Selection
from dhox.console import say
from dhox.data.dataset import Item, class_numbers, data_address
from dhox.data.manifest import check_files, write_manifest
from dhox.distill.defaults import adapter_of, learning_rate_of, recipe_sentence
from dhox.distill.images.draw_splits import draw_splits, notes_on_splits
from dhox.distill.images.listing import Images, Listing, list_images, look
from dhox.distill.images.sets import Sets, choose_sets
from dhox.distill.images.student_inputs import Boxes, StudentInputs, TrainingImages, student_inputs
from dhox.distill.options import DistillOptions, check, worker_count
from dhox.distill.processes import create_fabric, first_then_all, shared_output
from dhox.distill.results.evaluate import pixel_loader, predict_logits, validation_metrics, with_labels, with_unlabelled
from dhox.distill.results.outcome import RunResult, heads_sentence, select, test_rows
from dhox.distill.results.room import check_room
from dhox.distill.resume import earlier_state, identity_of, on_divergence
from dhox.distill.students.create import CreatedStudent, check_student, create_student
from dhox.distill.students.student import Student, save_student
from dhox.distill.teachers.adapter import ADAPTER_FILE
from dhox.distill.teachers.embeddings import CachedTeacher
from dhox.distill.teachers.model_config import check_config
from dhox.distill.teachers.targets import (
    TeacherTargets,
    WholeSets,
    targets_of_files,
    targets_of_model,
    teacher_rows,
)
from dhox.distill.teachers.teacher import Teacher, load_teacher
from dhox.distill.teachers.templates import template_list
from dhox.distill.training.batch_sampler import BatchSampler
from dhox.distill.training.metrics_log import MetricsLog
from dhox.distill.training.out_of_memory import out_of_memory
from dhox.distill.training.prefetch import Batches
from dhox.distill.training.steps import Steps, count_steps
from dhox.distill.training.trackers import Subject
from dhox.distill.training.train import Job, train
from dhox.errors import DhoxError
from dhox.evidence.calibration import calibration_warning
from dhox.options.declare import plain
from dhox.options.declare import settings as settings_of
from dhox.progress import working
from dhox.system.compiler import COMPILER_ADVICE, missing_for_compile
from dhox.system.environment import now, versions

HELD_BYTES = 4 << 30  # of decoded validation images that are kept in memory over the epochs


@dataclass(frozen=True)
class Place:
    """Where and how a training runs. `root`: of all caches; `templates`: of prompts; `compiled`: whether models are;
    `tell`: whether to say what DATA holds."""

    options: DistillOptions
    fabric: Fabric
    precision: str
    root: Path
    templates: list[str]
    compiled: bool
    tell: bool = True

    @property
    def workers(self) -> int:
        """Processes that decode images."""
        return worker_count(self.options.speed.workers)


@dataclass(frozen=True)
class Material:
    """What a training stands on: DATA, its sets, and how long they make it."""

    listing: Listing
    images: Images
    sets: Sets
    steps: Steps
    training: TrainingImages
    whole: WholeSets

    @property
    def hashes(self) -> ImageHashes:
        """What the validation and test images are."""
        val, test = (
            {item.name: self.images.seen[item.name].content.hex() for item in items}
            for items in (self.sets.validation, self.sets.test)
        )
        return ImageHashes.of(val, test)


@dataclass(frozen=True)
class Outcome:
    """What a trained student answers, and alpha and beta."""

    val: Logits
    test: Logits
    selection: Selection


def distill(
    data: Path, out: Path, options: DistillOptions, *, tell: bool = True,
    try_export: Callable[[], object] | None = None,
) -> RunResult:  # fmt: skip
    """Train a student on DATA and write the run directory `out`; `options` hold a single method.

    `tell`: say what DATA holds. `try_export`: raises DhoxError where the student cannot be exported; called by the
    first process, before any image is read, and not where a training goes on. Raises DhoxError for every mistake in
    DATA or the options, before anything is written but caches.
    """
    check(options)
    settings, templates = settings_of_training(data, options), templates_of(options)
    output = options.output
    if output.resume:
        finished = earlier_state(out, settings)
        if finished is not None:
            return RunResult(out, finished, read_record(out / SELECTION_FILE, Selection))
    check_output(out, RUN_FILE, RUN_SCHEMA, output.overwrite)
    check_student(options.student)
    if options.training.uses[1] and not options.teacher.from_files:
        check_config(options.teacher.teacher)
    fabric, precision = create_fabric(options.speed.device, options.speed.precision)
    root = options.speed.cache or out.absolute().parent / "cache"
    place = Place(options, fabric, precision, root, templates, compiles(options, fabric.device.type), tell)

    listing = list_images(
        data, options.labels.classes, options.labels.group_by, labels=options.labels.labels, tell=tell
    )
    if options.teacher.from_files:
        teacher_rows(options.teacher, listing)
    goes_on = output.resume and (partial_directory(out) / RUN_FILE).exists()
    if try_export is not None and not goes_on and fabric.is_global_zero:
        try_export()
    material = gather(listing, place)
    check_room(material.sets, material.whole, len(listing.classes), out)
    if tell:
        say(recipe_sentence(options, material.steps))
    with working("Loading the models"):
        student, teacher = _load_models(listing, place)
    targets = _teacher_targets(teacher, material, place)
    inputs = student_inputs(
        material.training, student.preprocessing, options.speed.packed_size, place.root, fabric, compiled=place.compiled
    )
    job = _training_job(material, targets, inputs, place)
    with shared_output(fabric, out, RUN_FILE, RUN_SCHEMA, output.overwrite, output.resume) as run:
        if fabric.is_global_zero:
            write_record(run / RUN_FILE, RunState(status="running", settings=settings))
        subject = Subject(run, str(out), settings) if fabric.is_global_zero else None
        with MetricsLog(subject, output.trackers) as log:
            _train_student(student, job, material, run, settings, place, log)
            with working("Answering the validation and test images"):
                outcome = judge(student, material, targets, place)
            summary = describe(student, job, material, targets, outcome, settings, place)
            log.results = results_of(summary, outcome.selection)
        if options.labels.makes_splits:
            summary = msgspec.structs.replace(summary, data=str(out.absolute() / SPLITS_FILE))
        if fabric.is_global_zero:
            if options.labels.makes_splits:
                write_manifest(run / SPLITS_FILE, material.images.splits)
            summary = write_run(run, student.model, outcome, targets, material.hashes, summary)
    return RunResult(out, summary, outcome.selection)


def compiles(options: DistillOptions, device: str) -> bool:
    """Whether models are compiled: where that is asked for, and on CUDA where this machine can.

    Raises DhoxError where it is asked for and cannot be.
    """
    asked = options.speed.compiled
    # A probe needs the graph of the losses twice, which compiled backward passes do not keep.
    if options.training.probe_gradients or asked is False or (asked is None and device != "cuda"):
        return False
    missing = missing_for_compile(device)
    if missing is None:
        return True
    if asked:
        raise DhoxError(f"--compile needs {missing}.", f"Leave --compile out, or {COMPILER_ADVICE}.")
    say(f"Without torch.compile, so slower: it needs {missing}; {COMPILER_ADVICE}.")
    return False


def templates_of(options: DistillOptions) -> list[str]:
    """The teacher's prompts."""
    return template_list(options.teacher.templates, list(options.teacher.template))


def settings_of_training(data: Path, options: DistillOptions) -> Settings:
    """All that --resume compares."""
    chosen = {"adapter": adapter_of(options), "learning_rate": learning_rate_of(options)}
    return settings_of(options) | chosen | {"data": data_address(data), "template": templates_of(options)}


def _load_models(listing: Listing, place: Place) -> tuple[CreatedStudent, Teacher | None]:
    """The student on the device, and the teacher where one runs here."""
    options, fabric = place.options, place.fabric
    torch.manual_seed(options.training.seed)
    model, spec, preprocessing = create_student(
        options.student, listing.labels, two_heads=options.training.method == "dho", prompts=listing.prompts,
        templates=place.templates, device=fabric.device,
    )  # fmt: skip
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        model = timm.layers.convert_sync_batchnorm(model)
    student = CreatedStudent(fabric.to_device(model), spec, preprocessing)
    if not options.training.uses[1] or options.teacher.from_files:
        return student, None
    return student, load_teacher(options.teacher.teacher, fabric.device, options.teacher.teacher_scale)


def gather(listing: Listing, place: Place) -> Material:
    """Look at every image, choose the sets, and count the steps."""
    options = place.options
    use_labels, use_teacher = options.training.uses
    if options.labels.makes_splits:
        check_files(listing.splits)  # since the run will list them
    with first_then_all(place.fabric):
        images = look(listing, skip_bad_images=options.labels.skip_bad_images, cache=place.root, tell=place.tell)
    images = replace(images, splits=draw_splits(images.splits, images.content, options.labels))
    sets = choose_sets(
        images.splits, listing.labels, images.content, options.labels, use_labels=use_labels,
        every_class=options.labels.need_every_class(use_teacher), tune_on=options.choosing.tune_on,
    )  # fmt: skip
    steps = count_steps(sets, options, place.fabric.world_size)
    items = sets.labelled + (sets.unlabelled if use_teacher else [])
    boxes = Boxes(items, images.sizes(items), options.teacher.view_seed)
    training = TrainingImages(items, class_numbers(sets.labelled, listing.labels), images.keys(items), boxes)
    whole = WholeSets.of(sets, two_heads=options.training.method == "dho", given=options.choosing.fixed is not None)
    return Material(listing, images, sets, steps, training, whole)


def _teacher_targets(teacher: Teacher | None, material: Material, place: Place) -> TeacherTargets | None:
    """What the teacher says of every view and of the whole images; None without one."""
    options, fabric, listing = place.options.teacher, place.fabric, material.listing
    adapter = adapter_of(place.options)
    if not place.options.training.uses[1]:
        return None
    labels, seed = class_numbers(material.sets.validation, listing.labels), place.options.training.seed
    if teacher is None:
        targets = targets_of_files(
            options, adapter, listing, material.training, material.whole, labels, fabric.device, seed
        )
    else:
        cached = CachedTeacher.of(teacher, place.root, material.images, options.view_seed, place.workers, fabric)
        targets = targets_of_model(
            cached, material.training, material.whole, labels, listing.prompts, place.templates, material.steps.views,
            options, adapter, seed,
        )  # fmt: skip
    if warning := calibration_warning(targets.entry.calibration, targets.entry.scale):
        say(f"Warning: {warning}.")
    return targets


def _training_job(material: Material, targets: TeacherTargets | None, inputs: StudentInputs, place: Place) -> Job:
    """The batches of the training, and all that it does with them."""
    options, fabric, training, steps = place.options, place.fabric, material.training, material.steps
    views = steps.views
    if options.teacher.from_files and targets is not None and targets.entry.views > 1:
        views = targets.entry.views  # a single one stands for every crop of the student
    sampler = BatchSampler(
        training.labels, training.n_unlabelled, steps.batch_labelled, steps.batch_unlabelled, views,
        options.training.seed, options.labels.balance_labels,
    )  # fmt: skip
    batches = Batches(
        sampler, inputs, targets.views if targets else None, threads=max(1, place.workers),
        pin=fabric.device.type == "cuda", rank=fabric.global_rank, world=fabric.world_size,
    )  # fmt: skip
    teacher = options.teacher
    files = [teacher.teacher_embeddings, teacher.class_embeddings, teacher.teacher_logits]
    identity = identity_of(
        np.concatenate([training.keys, material.images.keys(material.sets.validation)]),
        [steps.epoch_steps, steps.batch_labelled, steps.batch_unlabelled, views, inputs.side],
        [path for path in files if path is not None],
    )
    names = [item.name for item in training.items]
    peak = learning_rate_of(options)
    return Job(
        batches, names, steps, options.training, peak, teacher.top_k, teacher.teacher_temperature, place.compiled,
        identity,
    )  # fmt: skip


def _train_student(
    student: CreatedStudent, job: Job, material: Material, run: Path, settings: Settings, place: Place, log: MetricsLog
) -> None:
    """Train the student in place; run.json says where it diverged."""
    fabric, model, spec = place.fabric, student.model, student.spec
    items = material.sets.validation
    numbers = class_numbers(items, material.listing.labels)
    pixels: Iterable[torch.Tensor] = loader(items, student.preprocessing, place)
    if len(items) * spec.image_size**2 * 3 <= HELD_BYTES:
        pixels = list(pixels)

    def validate() -> dict[str, float]:
        if not items:
            return {}
        logits = predict_logits(fabric, model, pixels, len(items), student.preprocessing)
        return validation_metrics(logits, numbers, spec.two_heads)

    with (
        on_divergence(run, settings, writes=fabric.is_global_zero),
        out_of_memory(model, spec.image_size, fabric, job.steps.batch_labelled, job.steps.batch_unlabelled),
    ):
        train(fabric, model, job, run, validate, log.add)


def loader(items: list[Item], preprocessing: Preprocessing, place: Place) -> Iterable[torch.Tensor]:
    """This process's part of whole images, in batches uint8 [b, size, size, 3]."""
    return pixel_loader(items, preprocessing, place.workers, place.fabric)


def judge(student: CreatedStudent, material: Material, targets: TeacherTargets | None, place: Place) -> Outcome:
    """What the student answers to whole images, and alpha and beta from the validation images."""
    whole, labels, choosing = material.whole, material.listing.labels, place.options.choosing

    def heads(items: list[Item]) -> HeadLogits:
        pixels = loader(items, student.preprocessing, place)
        return predict_logits(place.fabric, student.model, pixels, len(items), student.preprocessing)

    teacher = targets.whole if targets else None
    of_val = teacher.validation if teacher else None
    val = with_labels(
        heads(whole.validation), whole.validation, labels, teacher_logits=of_val,
        teacher_predictions=None if of_val is None else of_val.argmax(-1),
    )  # fmt: skip
    if whole.unlabelled:
        val = with_unlabelled(val, heads(whole.unlabelled), teacher.unlabelled if teacher else None)
    test = with_labels(heads(whole.test), whole.test, labels, teacher_predictions=teacher.test if teacher else None)
    selection = select(val, material.sets.selection, student.spec.two_heads, choosing.metric, choosing.fixed)
    return Outcome(val, test, selection)


def describe(
    student: CreatedStudent, job: Job, material: Material, targets: TeacherTargets | None, outcome: Outcome,
    settings: Settings, place: Place,
) -> Run:  # fmt: skip
    """The content of run.json."""
    options, sets, listing, spec = place.options, material.sets, material.listing, student.spec
    of_student, training, steps = options.student, options.training, job.steps
    return Run(
        finished_at=now(),
        method=training.methods[0],
        data=data_address(listing.data),
        classes=class_entries(listing.classes),
        sets=sets.summary(options.labels, options.choosing.tune_on),
        teacher=targets.entry if targets else None,
        student=StudentEntry(
            **msgspec.structs.asdict(spec), weights=of_student.student_weights, init_heads=of_student.init_heads,
            init_from=plain(of_student.init_from),
        ),
        preprocessing=student.preprocessing,
        training=Training(
            epochs=steps.epochs, epoch_steps=steps.epoch_steps, batch_labelled=steps.batch_labelled,
            batch_unlabelled=steps.batch_unlabelled, learning_rate=job.peak,
            weight_decay=training.weight_decay, warm_up=training.warm_up, schedule=training.schedule,
            views=job.batches.sampler.views, packed_size=job.batches.inputs.side, seed=training.seed,
            split_seed=options.labels.split_seed, view_seed=options.teacher.view_seed, precision=place.precision,
            device=str(place.fabric.device), processes=place.fabric.world_size,
        ),
        test=test_rows(outcome.test, outcome.selection, spec.two_heads) if sets.test else None,
        skipped=material.images.skipped,
        notes=[*sets.notes, *notes_on(material, targets, options, outcome)],
        settings=settings,
        environment=versions(),
    )  # fmt: skip


def results_of(summary: Run, selection: Selection) -> dict[str, float]:
    """What the tools of --log show at the end: accuracies on test, and alpha and beta."""
    return {f"test_{row.stage}": row.accuracy for row in summary.test or []} | {
        "alpha": selection.alpha, "beta": selection.beta
    }  # fmt: skip


def notes_on(
    material: Material, targets: TeacherTargets | None, options: DistillOptions, outcome: Outcome
) -> list[str]:
    """What else a reader of the results should know."""
    notes, skipped = [], material.images.skipped
    if skipped:
        notes.append(f"{len(skipped)} unreadable images were skipped")
    notes += notes_on_splits(material.images.splits, options.labels)
    if all(options.training.uses) and not material.sets.unlabelled:
        notes.append("no unlabelled image: the distillation term runs over the labelled images alone")
    if not material.sets.test:
        notes.append("DATA has no test (--test-fraction draws one): no test accuracy is reported")
    if targets is not None and targets.adapter is not None:
        notes.append(targets.adapter.sentence())
    if options.training.method == "dho" and (heads := heads_sentence(outcome.val, outcome.selection)):
        notes.append(heads)
    warning = calibration_warning(targets.entry.calibration, targets.entry.scale) if targets else ""
    return [*notes, warning] if warning else notes


def write_run(
    run: Path, model: Student, outcome: Outcome, targets: TeacherTargets | None, images: ImageHashes, summary: Run
) -> Run:
    """The files of a finished run; run.json last, which is returned."""
    save_student(model, run)
    write_arrays(run / VAL_FILE, outcome.val)
    if summary.test is not None:
        write_arrays(run / TEST_FILE, outcome.test)
    write_arrays(run / IMAGES_FILE, images)
    write_record(run / SELECTION_FILE, outcome.selection)
    if targets is not None and targets.adapter is not None:
        targets.adapter.save(run / ADAPTER_FILE)
    summary = write_run_file(run, summary)
    shutil.rmtree(run / CHECKPOINT, ignore_errors=True)
    return summary
