"""`dhox distill`: DATA to a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from dhox.console import console
from dhox.dataset import class_names, class_numbers, read_dataset, spread
from dhox.distill.create import create_student
from dhox.distill.curves import Curves
from dhox.distill.evaluate import (
    logit_arrays,
    predict_logits,
    select,
    test_rows,
    validation_metrics,
)
from dhox.distill.scan import scan
from dhox.distill.sets import Sets, choose_sets
from dhox.distill.student import save_student
from dhox.distill.teacher import DEFAULT_TEMPLATES, embed_views, load_teacher, zero_shot_predictions
from dhox.distill.train import steps_per_epoch, train
from dhox.environment import now, versions
from dhox.errors import DhoxError
from dhox.files import RUN_FILE, RUN_SCHEMA, check_output, output_directory, write_json, write_npz

METHODS = {"dho": (True, True), "sho": (True, True), "ce": (True, False), "kd": (False, True)}  # (use CE, use KD)
PRECISIONS = {"cpu": ("32-true", "bf16-mixed"), "cuda": ("bf16-mixed", "16-mixed", "32-true")}  # first: default
MATCHING_IMAGES = 2000  # unlabelled images whose logits are kept where validation is too small to select on


@dataclass(frozen=True)
class DistillResult:
    """What `dhox distill` reports: the content of run.json and of selection.json."""

    run: Path
    summary: dict[str, Any]
    selection: dict[str, Any]


def distill(
    data: Path,
    out: Path,
    *,
    teacher: str,
    student: str,
    student_weights: str = "pretrained",
    method: str = "dho",
    shots: int | None = None,
    label_fraction: float | None = None,
    class_file: Path | None = None,
    templates: list[str] | None = None,
    teacher_scale: float | None = None,
    image_size: int | None = None,
    kd_head: str = "linear",
    init_heads: str = "random",
    init_from: Path | None = None,
    epochs: int = 30,
    batch_labelled: int = 64,
    batch_unlabelled: int = 192,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    views: int = 8,
    seed: int = 0,
    split_seed: int = 0,
    metric: str = "accuracy",
    device: str = "auto",
    precision: str | None = None,
    workers: int = 0,
    skip_bad_images: bool = False,
    overwrite: bool = False,
) -> DistillResult:
    """Train a student on DATA and write the run directory `out`.

    `method`: dho (two heads), sho (one head, both losses), ce (labels only), kd (teacher only, no label needed).
    `metric`: accuracy, balanced or macro-f1; alpha, beta and later r maximise it on validation. `precision`: a
    Lightning Fabric precision, by default bf16-mixed on CUDA and 32-true on the CPU. Raises DhoxError for every
    mistake in DATA or the options, before anything is written.
    """
    use_ce, use_kd = METHODS[method]
    check_output(out, RUN_FILE, RUN_SCHEMA, overwrite)
    fabric, precision = create_fabric(device, precision)
    splits = read_dataset(data)
    classes = class_names(splits, class_file)
    labels = [label for label, _ in classes]

    with console.status("Loading the models"):
        torch.manual_seed(seed)
        model, spec, preprocessing = create_student(
            student, student_weights, image_size, labels, two_heads=method == "dho", kd_head=kd_head,
            init_heads=init_heads, prompts=[prompt for _, prompt in classes],
            templates=list(templates or DEFAULT_TEMPLATES), init_from=init_from,
            device=fabric.device,
        )  # fmt: skip
        model = fabric.to_device(model)
        guide = load_teacher(teacher, fabric.device, teacher_scale) if use_kd else None

    splits, content, bad = scan(splits, skip_bad_images)
    sets = choose_sets(
        splits, labels, content, shots=shots, label_fraction=label_fraction, use_labels=use_ce, split_seed=split_seed
    )
    notes = list(sets.notes)
    if bad:
        notes.append(f"{len(bad)} unreadable images were skipped")
    if use_kd and use_ce and not sets.unlabelled:
        notes.append("no unlabelled image: the distillation term runs over the labelled images alone")
    if not sets.test:
        notes.append("DATA has no test: no test accuracy is reported")

    items = sets.labelled + (sets.unlabelled if use_kd else [])
    epoch_steps = steps_per_epoch(len(sets.labelled), len(sets.unlabelled), batch_labelled, batch_unlabelled)
    n, batch = (len(sets.unlabelled), batch_unlabelled) if sets.unlabelled else (len(sets.labelled), batch_labelled)
    views = min(views, passes_over(n, epochs, epoch_steps, batch))
    label_numbers = torch.from_numpy(class_numbers(sets.labelled, labels))

    with output_directory(out, RUN_FILE, RUN_SCHEMA, overwrite) as run:
        embeddings, text, teacher_summary = None, torch.empty(0), None
        teacher_answers: dict[str, np.ndarray] = {}
        if guide is not None:
            used_templates = list(templates or DEFAULT_TEMPLATES)
            text = guide.encode_classes([prompt for _, prompt in classes], used_templates)
            embeddings = embed_views(guide, items, views, seed, workers)
            whole = {"val": sets.validation, "test": sets.test}
            teacher_answers = {name: zero_shot_predictions(guide, text, part, workers) for name, part in whole.items()}
            teacher_summary = {"name": teacher, "scale": guide.scale, "templates": used_templates, "views": views}

        curves = Curves(run)
        on_device = text.to(fabric.device)
        scale = guide.scale if guide is not None else 1.0

        validation_numbers = class_numbers(sets.validation, labels)

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            if sets.validation:
                logits = predict_logits(fabric, model, sets.validation, preprocessing, workers)
                metrics |= validation_metrics(*logits, validation_numbers, spec.two_heads)
            curves.add(epoch, metrics)

        train(
            fabric, model, items, label_numbers, embeddings, lambda z: scale * z @ on_device.T, preprocessing,
            use_ce=use_ce, use_kd=use_kd, epochs=epochs, epoch_steps=epoch_steps, batch_labelled=batch_labelled,
            batch_unlabelled=batch_unlabelled, learning_rate=learning_rate, weight_decay=weight_decay, views=views,
            seed=seed, workers=workers, on_epoch=on_epoch,
        )  # fmt: skip
        curves.close()
        save_student(model, run)

        arrays = {
            name: logit_arrays(fabric, model, chosen, labels, preprocessing, workers)
            for name, chosen in (("val", sets.validation), ("test", sets.test))
        }
        selection = select(arrays["val"], sets.selection, spec.two_heads, metric)
        if spec.two_heads and not selection["searched"] and sets.unlabelled:
            sample = spread(sets.unlabelled, MATCHING_IMAGES)
            ce_logits, kd_logits = predict_logits(fabric, model, sample, preprocessing, workers)
            arrays["val"] |= {"unlabelled_ce_logits": ce_logits, "unlabelled_kd_logits": kd_logits}
        for name, answers in teacher_answers.items():
            arrays[name]["teacher_predictions"] = answers
        for name, of_split in arrays.items():
            write_npz(run / f"{name}.npz", **of_split)
        write_json(run / "selection.json", selection)

        summary = {
            "schema": RUN_SCHEMA,
            "status": "complete",
            "finished_at": now(),
            "method": method,
            "data": str(data.absolute()),
            "classes": [{"id": i, "name": name, "prompt": prompt} for i, (name, prompt) in enumerate(classes)],
            "sets": sets_summary(sets),
            "teacher": teacher_summary,
            "student": spec.to_json()
            | {
                "weights": student_weights, "init_heads": init_heads,
                "init_from": None if init_from is None else str(init_from.absolute()),
            },
            "preprocessing": preprocessing.to_json(),
            "training": {
                "epochs": epochs, "epoch_steps": epoch_steps, "batch_labelled": batch_labelled,
                "batch_unlabelled": batch_unlabelled, "learning_rate": learning_rate, "weight_decay": weight_decay,
                "views": views, "seed": seed, "split_seed": split_seed, "precision": precision,
                "device": str(fabric.device),
            },
            "test": test_rows(arrays["test"], selection, spec.two_heads) if sets.test else None,
            "skipped": sorted(bad),
            "notes": notes,
            "environment": versions(),
        }  # fmt: skip
        write_json(run / RUN_FILE, summary)
    return DistillResult(out, summary, selection)


def create_fabric(device: str, precision: str | None) -> tuple[Fabric, str]:
    """One device, and the precision on it. Raises DhoxError where CUDA is asked for and not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise DhoxError("--device cuda: torch finds no CUDA device here. Use --device cpu, or run `dhox doctor`.")
    accelerator = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    precision = precision or PRECISIONS[accelerator][0]
    if precision not in PRECISIONS[accelerator]:
        raise DhoxError(f"--precision {precision} on {accelerator}: use one of {', '.join(PRECISIONS[accelerator])}.")
    return Fabric(accelerator=accelerator, devices=1, precision=precision), precision


def passes_over(n: int, epochs: int, epoch_steps: int, batch: int) -> int:
    """How often training sees each of n images at most: more views than that would never be drawn."""
    return max(1, -(-epochs * epoch_steps * min(batch, n) // n))


def sets_summary(sets: Sets) -> dict[str, Any]:
    """The sets as run.json holds them: counts, and the names that an image folder alone would not tell."""
    return {
        "n_labelled": len(sets.labelled),
        "n_unlabelled": len(sets.unlabelled),
        "n_validation": len(sets.validation),
        "n_test": len(sets.test),
        "selection": sets.selection,
        "labelled": [item.name for item in sets.labelled],
        "validation": [item.name for item in sets.validation],
    }
