"""`dhox audit`: what a teacher knows of DATA before any training, and whether distilling can pay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from dhox.artefacts.audit import (
    Audit,
    AuditSets,
    AuditTeacher,
    JudgesSummary,
)
from dhox.artefacts.common import class_entries
from dhox.artefacts.files import AUDIT_FILE, AUDIT_SCHEMA, check_output, output_directory
from dhox.artefacts.record import write_record
from dhox.console import progress_bar
from dhox.data.dataset import (
    Item,
    class_numbers,
    data_address,
    spread,
)
from dhox.distill.auditing.advice import Way, advise, way_row
from dhox.distill.auditing.breakdown import Judges, choose_judges, class_rows, confusion_rows, template_rows, text_rows
from dhox.distill.auditing.leaks_and_outliers import near_copies, unlike
from dhox.distill.auditing.linear_probe import choose_strength, cross_validated, fit_probe, folds_of
from dhox.distill.images.listing import list_images, look
from dhox.distill.images.pixels import WholeImages
from dhox.distill.images.sets import Sets, choose_sets, hold_out_note
from dhox.distill.options import Labels, worker_count
from dhox.distill.processes import create_fabric
from dhox.distill.small_options import AuditOptions
from dhox.distill.teachers.teacher import Teacher, load_teacher
from dhox.distill.teachers.templates import template_list
from dhox.errors import UsageError
from dhox.system.environment import now, versions

MOST_PROBE_IMAGES = 50_000


@dataclass(frozen=True)
class AuditResult:
    """What `dhox audit` reports: audit.json."""

    audit: Path
    content: Audit


def audit(data: Path, out: Path, options: AuditOptions) -> AuditResult:
    """Measure the teacher on DATA and write the audit directory `out`.

    Every accuracy is of the val split, or, without one, of the labelled images: zero-shot on
    all of them, the probe cross-validated. Test is looked at for copies alone, its labels never. Raises DhoxError for
    every mistake in DATA or the options, before anything is written.
    """
    teacher, small_clips = options.teacher.teacher, list(options.teacher.small_clip)
    templates = template_list(options.teacher.templates, list(options.teacher.template))
    shots, split_seed = options.images.shots, options.images.split_seed
    overwrite, workers = options.images.overwrite, worker_count(options.machine.workers)
    if len({teacher, *small_clips}) <= len(small_clips):
        raise UsageError("--small-clip names the teacher or the same model twice.", "Name each model once.")
    check_output(out, AUDIT_FILE, AUDIT_SCHEMA, overwrite)
    fabric, _ = create_fabric(options.machine.device, None)
    listing = list_images(data, options.images.classes)
    classes, labels, prompts = listing.classes, listing.labels, listing.prompts
    guide = load_teacher(teacher, fabric.device)
    images = look(listing, skip_bad_images=options.images.skip_bad_images)
    splits, content = images.splits, images.content
    every_class = {item.label for item in splits["train"]} >= set(labels)
    sets = choose_sets(splits, labels, content, Labels(shots=shots, split_seed=split_seed), use_labels=every_class)
    labelled = sets.labelled + (sets.validation if sets.selection == "held-out" else [])
    judges = choose_judges(sets, labelled, labels)
    validation = sets.validation if sets.selection == "val" else []

    of_set = {"labelled": labelled, "unlabelled": sets.unlabelled, "validation": validation, "test": sets.test}
    each = torch.stack([guide.encode_classes(prompts, [template]) for template in templates])
    text = functional.normalize(each.mean(0), dim=-1)
    embeddings = {name: encode(guide, items, text.shape[1], workers, name) for name, items in of_set.items()}
    numbers = torch.from_numpy(class_numbers(labelled, labels))
    z_judges = embeddings["labelled" if judges.cross_validated else "validation"]
    ways = _ways_of(guide, text, z_judges, embeddings["labelled"], numbers, labelled, judges)
    for name in small_clips:
        small = load_teacher(name, fabric.device)
        their_text = small.encode_classes(prompts, templates)
        ours, theirs = (
            encode(small, items, their_text.shape[1], workers, f"with {name}") for items in (labelled, validation)
        )
        theirs = ours if judges.cross_validated else theirs
        ways += _ways_of(small, their_text, theirs, ours, numbers, labelled, judges)
    verdict, advice = advise(ways, len(sets.unlabelled), len(classes))
    result = Audit(
        finished_at=now(),
        data=data_address(data),
        classes=class_entries(classes),
        teacher=AuditTeacher(
            name=teacher, scale=guide.scale, logit_bias=guide.logit_bias, templates=templates,
            parameters=_image_parameters(guide),
        ),
        sets=AuditSets(**{name: len(items) for name, items in of_set.items()}, shots=shots, split_seed=split_seed),
        judges=JudgesSummary(n=len(judges.items), cross_validated=judges.cross_validated, words=judges.words),
        ways=[way_row(way, ways[0]) for way in ways],
        verdict=verdict,
        advice=advice,
        templates=template_rows(each, templates, z_judges, judges),
        per_class=class_rows(ways, judges, labels),
        confusions=confusion_rows(ways, judges, text, labels),
        closest_texts=text_rows(text, labels, fabric.device),
        near_copies=near_copies(guide, of_set, embeddings, splits, content, labels),
        unlike=unlike(text, of_set, embeddings, guide.device),
        skipped=images.skipped,
        notes=_notes_of(sets, every_class),
        environment=versions(),
    )  # fmt: skip
    with output_directory(out, AUDIT_FILE, AUDIT_SCHEMA, overwrite) as folder:
        write_record(folder / AUDIT_FILE, result)
    return AuditResult(out, result)


def _notes_of(sets: Sets, every_class: bool) -> list[str]:
    """What the choice of the sets left out; nothing is held out here."""
    held_out = hold_out_note("val", len(sets.validation) if sets.selection == "held-out" else 0)
    notes = [note for note in sets.notes if note != held_out]
    return notes if every_class else [*notes, "some class has no labelled image in train: all of it is unlabelled here"]


def encode(teacher: Teacher, items: list[Item], width: int, workers: int, name: str) -> torch.Tensor:
    """The teacher's normalised embeddings of whole images, float16 [N, width] on the CPU."""
    z = torch.zeros(len(items), width, dtype=torch.float16)
    if not items:
        return z
    loader = DataLoader(WholeImages(items, teacher.transform), batch_size=128, num_workers=workers)
    done = 0
    with progress_bar(f"Embedding {name}", len(items)) as advance:
        for images in loader:
            z[done : done + len(images)] = teacher.encode_images(images).half().cpu()
            done += len(images)
            advance(len(images))
    return z


def _image_parameters(teacher: Teacher) -> int:
    """Parameters of the image tower."""
    return sum(parameter.numel() for parameter in teacher.model.visual.parameters())


def _ways_of(
    teacher: Teacher,
    text: torch.Tensor,
    z_judges: torch.Tensor,
    z_labelled: torch.Tensor,
    numbers: torch.Tensor,
    labelled: list[Item],
    judges: Judges,
) -> list[Way]:
    """Zero-shot and a linear probe of one model on the judges; no probe where the labels do not suffice for one.

    `text` [C, D]; `numbers` [N]: the labels of `labelled`.
    """
    if not len(judges.labels):
        return []
    device, classes = teacher.device, len(text)
    truth, size = judges.labels.numpy(), _image_parameters(teacher)
    zero_shot = (z_judges.float() @ text.T).argmax(-1).numpy()
    ways = [Way("zero-shot", teacher.name, size, zero_shot == truth, zero_shot)]
    chosen = spread([*range(len(labelled))], MOST_PROBE_IMAGES)
    folds = (
        folds_of(numbers[chosen].numpy(), [labelled[i].group or labelled[i].name for i in chosen]) if chosen else None
    )
    if folds is None or (judges.cross_validated and len(chosen) < len(labelled)):
        return ways
    z, y = z_labelled[chosen].to(device).float(), numbers[chosen].to(device)
    if judges.cross_validated:
        answers = cross_validated(z, y, classes, folds).cpu().numpy()
    else:
        probe = fit_probe(z, y, classes, choose_strength(z, y, classes, folds))
        answers = probe.predict(z_judges.to(device).float()).cpu().numpy()
    return [*ways, Way("linear probe", teacher.name, size, answers == truth, answers)]
