"""`dhox distill`: DATA to a run directory."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import timm
import torch

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.common import StudentEntry, class_entries
from dhox.artefacts.files import (
    CHECKPOINT,
    RUN_FILE,
    RUN_SCHEMA,
    check_output,
)
from dhox.artefacts.logits import TEST_FILE, VAL_FILE, HeadLogits
from dhox.artefacts.record import read_record, write_record
from dhox.artefacts.run import Run, RunState, SetsSummary, Training
from dhox.artefacts.selection import SELECTION_FILE, Selection
from dhox.console import console
from dhox.data.dataset import (
    class_names,
    class_numbers,
    data_address,
    listed_labels,
    own_classes,
    read_dataset,
    spread,
)
from dhox.distill.images.packed import packed_side
from dhox.distill.images.scan import contents, scan, scan_memory, sizes_of
from dhox.distill.images.sets import Sets, choose_sets
from dhox.distill.images.student_inputs import decoded_inputs, packed_inputs, resident_images
from dhox.distill.options import METHODS, DistillOptions, check, worker_count
from dhox.distill.processes import create_fabric, first_then_all, per_process, shared_output
from dhox.distill.results.evaluate import (
    pixel_loader,
    predict_logits,
    validation_metrics,
    with_labels,
    with_unlabelled,
)
from dhox.distill.results.outcome import select, test_rows
from dhox.distill.results.selection import FEWEST_IMAGES
from dhox.distill.resume import earlier_state, identity_of, on_divergence
from dhox.distill.students.create import create_student
from dhox.distill.students.student import save_student
from dhox.distill.teachers.adapter import ADAPTER_FILE, save_adapter
from dhox.distill.teachers.targets import (
    Guidance,
    adapter_sentence,
    guidance_of_files,
    guidance_of_model,
    keys_of,
    packed_rows,
)
from dhox.distill.teachers.teacher import load_teacher
from dhox.distill.teachers.templates import template_list
from dhox.distill.training.batch_sampler import Order
from dhox.distill.training.metrics_log import Curves
from dhox.distill.training.out_of_memory import out_of_memory
from dhox.distill.training.prefetch import Boxes, DecodedPixels, prepared
from dhox.distill.training.train import steps_per_epoch, train
from dhox.errors import DhoxError
from dhox.options.declare import flat, plain
from dhox.options.declare import settings as settings_of
from dhox.system.environment import now, versions

HELD_BYTES = 4 << 30  # of decoded validation images that are kept in memory over the epochs
MATCHING_IMAGES = 2000  # unlabelled images whose logits are kept where nothing is searched


@dataclass(frozen=True)
class DistillResult:
    """What `dhox distill` reports: run.json and selection.json."""

    run: Path
    summary: Run
    selection: Selection


def distill(data: Path, out: Path, options: DistillOptions) -> DistillResult:
    """Train a student on DATA and write the run directory `out`; `options` hold a single method.

    Raises DhoxError for every mistake in DATA or the options, before anything is written but caches.
    """
    check(options)
    of = SimpleNamespace(**flat(options))
    method, seed, split_seed, view_seed, views = of.method, of.seed, of.split_seed, of.view_seed, of.views
    precision, compiled, workers = of.precision, of.compiled, worker_count(of.workers)
    used_templates = template_list(options.teacher.templates, list(options.teacher.template))
    settings = settings_of(options) | {"data": data_address(data), "template": used_templates}
    resume, overwrite = options.output.resume, options.output.overwrite
    use_ce, use_kd = METHODS[method]
    if resume:
        finished = earlier_state(out, settings)
        if finished is not None:
            return DistillResult(out, finished, read_record(out / SELECTION_FILE, Selection))
    check_output(out, RUN_FILE, RUN_SCHEMA, overwrite)
    fabric, precision = create_fabric(of.device, precision)
    # A probe needs the graph of the losses twice, which compiled backward passes do not keep.
    compiled = not of.probe_gradients and (fabric.device.type == "cuda" if compiled is None else compiled)
    splits = read_dataset(data, group_by=of.group_by, labels=listed_labels(of.classes))
    manifest_rows = sum(len(items) for items in splits.values())
    classes = class_names(splits, of.classes, own_classes(data))
    labels, prompts = [label for label, _ in classes], [prompt for _, prompt in classes]
    from_files = of.teacher_embeddings is not None or of.teacher_logits is not None

    with console.status("Loading the models"):
        torch.manual_seed(seed)
        model, spec, preprocessing = create_student(
            of.student, of.student_weights, of.image_size, labels, two_heads=method == "dho", kd_head=of.kd_head,
            init_heads=of.init_heads, prompts=prompts,
            templates=used_templates, init_from=of.init_from,
            device=fabric.device,
        )  # fmt: skip
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            model = timm.layers.convert_sync_batchnorm(model)
        model = fabric.to_device(model)
        guide = load_teacher(of.teacher, fabric.device, of.teacher_scale) if use_kd and not from_files else None

    # What there is: every image looked at once, the sets, the length of training.
    root = of.cache or out.absolute().parent / "cache"
    with first_then_all(fabric):
        splits, seen = scan(splits, of.skip_bad_images, scan_memory(root, data))
    fixed = (of.alpha, of.beta) if of.alpha is not None and of.beta is not None else None
    skipped = sorted(name for name, what in seen.items() if what.reason is not None)
    sets = choose_sets(
        splits, labels, contents(seen), shots=of.shots, label_fraction=of.label_fraction, use_labels=use_ce,
        split_seed=split_seed, label_sampler=of.label_sampler, tune_on=of.tune_on,
    )  # fmt: skip
    notes = [*sets.notes, *set_notes(sets, skipped, use_ce, use_kd)]
    items = sets.labelled + (sets.unlabelled if use_kd else [])
    label_numbers, validation_numbers = class_numbers(sets.labelled, labels), class_numbers(sets.validation, labels)
    over_labelled = not sets.unlabelled or (of.epoch_over == "labelled" and bool(sets.labelled))
    n, batch = (len(sets.labelled), of.batch_labelled) if over_labelled else (len(sets.unlabelled), of.batch_unlabelled)
    epoch_steps = steps_per_epoch(n, batch)
    world = fabric.world_size
    n_labelled = per_process("--batch-labelled", of.batch_labelled, len(sets.labelled), world)
    n_unlabelled = per_process("--batch-unlabelled", of.batch_unlabelled, len(items) - len(sets.labelled), world)
    if (n_labelled + n_unlabelled) // world < 2:
        raise DhoxError("A step of one image per process cannot train BatchNorm.", "Use larger batches, or add images.")
    parts = [(len(sets.labelled), n_labelled), (len(items) - len(sets.labelled), n_unlabelled)]
    passes = max(passes_over(n, of.epochs, epoch_steps, batch) for n, batch in parts if n)
    if use_kd:  # without a teacher a view costs nothing
        views = passes if of.online_teacher else min(views, passes)

    # The teacher's part and the packed images, from the cache where it has them.
    keys, sizes = keys_of(items, seen), sizes_of(items, seen)
    boxes = Boxes(items, np.array(sizes, np.int64).reshape(-1, 2), view_seed)
    guidance: Guidance | None = None
    unsearched = spec.two_heads and (fixed is not None or len(sets.validation) < FEWEST_IMAGES)
    sample = spread(sets.unlabelled, MATCHING_IMAGES) if unsearched else []
    whole = {"val": sets.validation, "test": sets.test, "unlabelled": sample}
    if guide is not None:
        guidance = guidance_of_model(
            fabric, guide, root, items, whole, seen, boxes, prompts, used_templates, views=views,
            view_seed=view_seed, online=of.online_teacher, workers=workers, adapter=of.adapter, labels=label_numbers,
            validation_labels=validation_numbers, seed=seed,
        )  # fmt: skip
    elif use_kd:
        guidance = guidance_of_files(
            data, of.teacher_embeddings, of.class_embeddings, of.teacher_logits, of.teacher_scale or 100.0, items,
            whole, manifest_rows, len(classes), fabric.device,
        )  # fmt: skip
    if guidance is not None and guidance.adapter is not None:
        notes.append(adapter_sentence(guidance.adapter, of.adapter))
    if use_kd and from_files and guidance is not None and guidance.summary.views > 1:
        views = guidance.summary.views  # a single one stands for every crop of the student
    side = packed_side(preprocessing.crop, sizes) if of.packed_size is None else of.packed_size
    if side:
        rows = packed_rows(fabric, root, items, keys, side)
        resident = resident_images(rows, fabric)
        pixels, images_of = packed_inputs(rows, resident, boxes, preprocessing, fabric, compiled)
    else:
        decoded = DecodedPixels(items, boxes, preprocessing.crop, preprocessing.interpolation)
        pixels, images_of = decoded_inputs(decoded, preprocessing, fabric)
    identity = identity_of(
        keys + keys_of(sets.validation, seen), [epoch_steps, n_labelled, n_unlabelled, views, side],
        [path for path in (of.teacher_embeddings, of.class_embeddings, of.teacher_logits) if path is not None],
    )  # fmt: skip
    order = Order(
        label_numbers, len(items) - len(sets.labelled), n_labelled, n_unlabelled, views, seed, of.balance_labels
    )

    with shared_output(fabric, out, RUN_FILE, RUN_SCHEMA, overwrite, resume) as run:
        if fabric.is_global_zero:
            write_record(run / RUN_FILE, RunState(status="running", settings=settings))
        validation: Any = pixel_loader(sets.validation, preprocessing, workers, fabric.global_rank, world)
        if len(sets.validation) * spec.image_size**2 * 3 <= HELD_BYTES:
            validation = list(validation)

        def validate() -> dict[str, float]:
            if not sets.validation:
                return {}
            logits = predict_logits(fabric, model, validation, len(sets.validation), preprocessing)
            return validation_metrics(logits, validation_numbers, spec.two_heads)

        curves = Curves(run if fabric.is_global_zero else None)
        with (
            on_divergence(run, settings, writes=fabric.is_global_zero),
            out_of_memory(model, spec.image_size, fabric, n_labelled, n_unlabelled),
        ):
            train(
                fabric, model, torch.from_numpy(label_numbers), [item.name for item in items],
                lambda steps: prepared(
                    order, steps, pixels, guidance.signal.of_views if guidance else None, threads=max(1, workers),
                    pin=fabric.device.type == "cuda", rank=fabric.global_rank, world=world,
                ),
                images_of, guidance.signal.logits if guidance else None, use_ce=use_ce, use_kd=use_kd, epochs=of.epochs,
                epoch_steps=epoch_steps, n_labelled=n_labelled // world, n_unlabelled=n_unlabelled // world,
                learning_rate=of.learning_rate, weight_decay=of.weight_decay, warm_up=of.warm_up, schedule=of.schedule,
                top_k=of.top_k, seed=seed, compiled=compiled, identity=identity, probe_gradients=of.probe_gradients,
                run=run, validate=validate, record=curves.add,
            )  # fmt: skip
        curves.close()

        # What the student answers; what alpha and beta are; the files.
        def answers(part: list[Any]) -> HeadLogits:
            loader = pixel_loader(part, preprocessing, workers, fabric.global_rank, world)
            return predict_logits(fabric, model, loader, len(part), preprocessing)

        teacher_answers = guidance.answers if guidance else {}
        val = with_labels(
            answers(sets.validation), sets.validation, labels, teacher_predictions=teacher_answers.get("val"),
            teacher_logits=guidance.val_logits if guidance else None,
        )  # fmt: skip
        if sample:
            val = with_unlabelled(val, answers(sample), teacher_answers.get("unlabelled"))
        test = with_labels(
            answers(sets.test), sets.test, labels, teacher_predictions=teacher_answers.get("test")
        )  # fmt: skip
        selection = select(val, sets.selection, spec.two_heads, of.metric, fixed)
        summary = Run(
            finished_at=now(),
            method=method,
            data=data_address(data),
            classes=class_entries(classes),
            sets=sets_summary(sets, of.label_sampler, of.tune_on, of.group_by),
            teacher=guidance.summary if guidance else None,
            student=StudentEntry(
                **msgspec.structs.asdict(spec), weights=of.student_weights, init_heads=of.init_heads,
                init_from=plain(of.init_from),
            ),
            preprocessing=preprocessing,
            training=Training(
                epochs=of.epochs, epoch_steps=epoch_steps, batch_labelled=n_labelled,
                batch_unlabelled=n_unlabelled, learning_rate=of.learning_rate, weight_decay=of.weight_decay,
                warm_up=of.warm_up, schedule=of.schedule, views=views, packed_size=side, seed=seed,
                split_seed=split_seed, view_seed=view_seed, precision=precision, device=str(fabric.device),
                processes=world,
            ),
            test=test_rows(test, selection, spec.two_heads) if sets.test else None,
            skipped=skipped,
            notes=notes,
            settings=settings,
            environment=versions(),
        )  # fmt: skip
        if fabric.is_global_zero:
            save_student(model, run)
            write_arrays(run / VAL_FILE, val)
            if sets.test:
                write_arrays(run / TEST_FILE, test)
            write_record(run / SELECTION_FILE, selection)
            if guidance is not None and guidance.adapter is not None:
                save_adapter(guidance.adapter, run / ADAPTER_FILE)
            write_record(run / RUN_FILE, summary)
            shutil.rmtree(run / CHECKPOINT, ignore_errors=True)
    return DistillResult(out, summary, selection)


def set_notes(sets: Sets, skipped: list[str], use_ce: bool, use_kd: bool) -> list[str]:
    """What a reader of the results should know about the sets."""
    notes = []
    if skipped:
        notes.append(f"{len(skipped)} unreadable images were skipped")
    if use_kd and use_ce and not sets.unlabelled:
        notes.append("no unlabelled image: the distillation term runs over the labelled images alone")
    if not sets.test:
        notes.append("DATA has no test: no test accuracy is reported")
    return notes


def passes_over(n: int, epochs: int, epoch_steps: int, batch: int) -> int:
    """How often training sees each of n images at most: more views than that would never be drawn."""
    return max(1, -(-epochs * epoch_steps * batch // n))


def sets_summary(sets: Sets, label_sampler: str, tune_on: str, group_by: str | None) -> SetsSummary:
    """The sets as run.json holds them."""
    return SetsSummary(
        n_labelled=len(sets.labelled),
        n_unlabelled=len(sets.unlabelled),
        n_validation=len(sets.validation),
        n_test=len(sets.test),
        selection=sets.selection,
        labelled=[item.name for item in sets.labelled],
        validation=[item.name for item in sets.validation],
        label_sampler=label_sampler,
        tune_on=tune_on,
        group_by=group_by,
    )
