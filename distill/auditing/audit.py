"""`dhox audit`: what a teacher knows of DATA before any training, and whether distilling can pay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dhox.artefacts.audit import ZERO_SHOT, Audit, AuditSets, AuditTeacher, JudgesSummary, PromptTrial, WayName
from dhox.artefacts.common import class_entries
from dhox.artefacts.files import AUDIT_FILE, AUDIT_SCHEMA, BETTER_CLASSES, check_output, output_directory
from dhox.artefacts.predictions import PREDICTIONS_FILE, Answer, write_predictions
from dhox.artefacts.record import write_record
from dhox.data.dataset import data_address, read_prompt_file, spread
from dhox.distill.auditing.advice import Way, advise, way_row
from dhox.distill.auditing.breakdown import class_rows, confusion_rows, template_rows, text_rows
from dhox.distill.auditing.leaks_and_outliers import near_copies, unlike
from dhox.distill.auditing.linear_probe import choose_strength, cross_validated, fit_probe, folds_of
from dhox.distill.auditing.prompts import other_templates, try_prompts, write_better_classes
from dhox.distill.auditing.subject import Embedded, Judges, Subject, choose_subject, embed
from dhox.distill.images.listing import list_images
from dhox.distill.options import worker_count
from dhox.distill.processes import create_fabric
from dhox.distill.small_options import AuditImages, AuditOptions
from dhox.distill.teachers.teacher import load_teacher
from dhox.distill.teachers.templates import template_list
from dhox.errors import DhoxError, UsageError
from dhox.evidence.calibration import calibration, calibration_warning
from dhox.evidence.statistics import softmax
from dhox.system.environment import now, versions

MOST_PROBE_IMAGES = 50_000


def audit(data: Path, out: Path, options: AuditOptions) -> Audit:
    """Measure the teacher on DATA and write the audit directory `out`; its audit.json.

    Every accuracy is of the val split, or, without one, of the labelled images: zero-shot on
    all of them, the probe cross-validated. Test is looked at for copies alone, its labels never. Raises DhoxError for
    every mistake in DATA or the options, before anything is written.
    """
    teacher, images = options.teacher, options.images
    models, templates = [teacher.teacher, *teacher.small_clip], template_list(teacher.templates, list(teacher.template))
    if len({*models}) < len(models):
        raise UsageError("--small-clip names the teacher or the same model twice.", "Name each model once.")
    check_output(out, AUDIT_FILE, AUDIT_SCHEMA, images.overwrite)
    _check_inputs(out, images)
    fabric, _ = create_fabric(options.machine.device, None)
    listing, workers = list_images(data, images.classes, labels=images.labels), worker_count(options.machine.workers)
    prompts = listing.prompts
    others = {} if images.prompts is None else read_prompt_file(images.prompts, listing.labels)
    guide = load_teacher(models[0], fabric.device)
    subject = choose_subject(listing, images)
    if others and not subject.judges.items:
        raise DhoxError("--prompts: no image has a label to judge by.", "Label a few (dhox label) and give --labels.")
    embedded = embed(guide, prompts, templates, subject.sets, workers)
    ways = _ways_of(embedded, subject)
    for name in models[1:]:
        small = load_teacher(name, fabric.device)
        sets = {of: subject.sets[of] for of in ("labelled", "validation")}
        ways += _ways_of(embed(small, prompts, templates, sets, workers, f"with {name}"), subject)
    logits = _logits(subject.judges, embedded)
    trial = None
    if subject.judges.items:
        sets_of_templates = other_templates(templates) if images.labels or others else {}
        trial = try_prompts(subject, embedded, logits, others, sets_of_templates)
    content = _record(subject, embedded, logits, ways, images, trial)
    with output_directory(out, AUDIT_FILE, AUDIT_SCHEMA, images.overwrite) as folder:
        write_predictions(folder / PREDICTIONS_FILE, _answers(subject, embedded.teacher.name, logits))
        if trial is not None and trial.class_list:
            write_better_classes(folder / BETTER_CLASSES, listing.classes, trial)
        write_record(folder / AUDIT_FILE, content)
    return content


def _check_inputs(out: Path, options: AuditImages) -> None:
    """Raise UsageError for a file that the audit reads and, with `out`, would replace."""
    for flag, file in (("--labels", options.labels), ("--classes", options.classes), ("--prompts", options.prompts)):
        if file is not None and out.resolve() in file.resolve().parents:
            raise UsageError(f"{flag} {file} lies in {out}, which is written anew.", "Give another --out, or copy it.")


def _record(
    subject: Subject, embedded: Embedded, logits: np.ndarray, ways: list[Way], options: AuditImages,
    trial: PromptTrial | None,
) -> Audit:  # fmt: skip
    listing, teacher, judges = subject.listing, embedded.teacher, subject.judges
    counts = {name: len(items) for name, items in subject.sets.items()}
    commonest = float(judges.labels.bincount().max()) / len(judges.items) if judges.items else 0.0
    verdict, advice = advise(ways, counts["unlabelled"], commonest)
    found = calibration(logits, judges.labels.numpy(), "judged")
    if warning := calibration_warning(found, teacher.scale):
        advice.append(f"{warning[0].upper()}{warning[1:]}.")
    return Audit(
        finished_at=now(),
        data=data_address(listing.data),
        classes=class_entries(listing.classes),
        teacher=AuditTeacher(
            name=teacher.name, scale=teacher.scale, logit_bias=teacher.logit_bias, templates=embedded.templates,
            parameters=embedded.parameters, calibration=found,
        ),
        sets=AuditSets(**counts, shots=options.shots, split_seed=options.split_seed),
        judges=JudgesSummary(n=len(judges.items), cross_validated=judges.cross_validated, words=judges.words),
        ways=[way_row(way, ways[0]) for way in ways],
        verdict=verdict,
        advice=advice,
        templates=template_rows(embedded, judges),
        per_class=class_rows(ways, subject),
        confusions=confusion_rows(ways, subject, embedded.text),
        closest_texts=text_rows(embedded, subject.labels),
        near_copies=near_copies(embedded, subject),
        unlike=unlike(embedded, subject.sets),
        skipped=subject.images.skipped,
        notes=subject.notes,
        environment=versions(),
        prompts=trial,
    )  # fmt: skip


def _logits(judges: Judges, embedded: Embedded) -> np.ndarray:
    """The teacher's zero-shot logits of the images that judge, [N, C]."""
    if not judges.items:
        return np.zeros((0, 1))
    logits: np.ndarray = (embedded.teacher.scale * (embedded.z_of(judges) @ embedded.text.T)).cpu().numpy()
    return logits


def _answers(subject: Subject, teacher: str, logits: np.ndarray) -> Iterator[tuple[str, str, str, Answer]]:
    """The rows of predictions.csv: the teacher's zero-shot answer to every image that judges, from its `logits`."""
    judges, labels = subject.judges, subject.labels
    for item, probs in zip(judges.items, softmax(logits), strict=True):
        best = int(probs.argmax())
        yield teacher, ZERO_SHOT, item.name, Answer(str(item.label), labels[best], float(probs[best]))


def _ways_of(embedded: Embedded, subject: Subject) -> list[Way]:
    """Zero-shot and a linear probe of one model on the judges; no probe where the labels do not suffice for one."""
    judges, labelled, teacher = subject.judges, subject.sets["labelled"], embedded.teacher
    if not judges.items:
        return []
    classes, truth, z_judges = len(embedded.text), judges.labels.numpy(), embedded.z_of(judges)

    def way(kind: WayName, answers: torch.Tensor) -> Way:
        found = answers.cpu().numpy()
        return Way(kind, teacher.name, embedded.parameters, found == truth, found)

    ways = [way("zero-shot", (z_judges @ embedded.text.T).argmax(-1))]
    chosen = spread([*range(len(labelled))], MOST_PROBE_IMAGES)
    y = subject.numbers(labelled)[chosen]
    folds = folds_of(y.numpy(), [labelled[i].group or labelled[i].name for i in chosen]) if chosen else None
    if folds is None or (judges.cross_validated and len(chosen) < len(labelled)):
        return ways
    z, y = embedded.z["labelled"][chosen].to(teacher.device).float(), y.to(teacher.device)
    if judges.cross_validated:
        answers = cross_validated(z, y, classes, folds)
    else:
        answers = fit_probe(z, y, classes, choose_strength(z, y, classes, folds)).predict(z_judges.to(teacher.device))
    return [*ways, way("linear probe", answers)]
