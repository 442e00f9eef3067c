"""What a run comes to, in one sentence and three numbers."""

from __future__ import annotations

import numpy as np

from dhox.artefacts.bench import Bench
from dhox.artefacts.bench_latency import LatencyRow
from dhox.artefacts.common import Accuracy
from dhox.artefacts.ledger import Ledger
from dhox.artefacts.manifest import Artefact, Manifest
from dhox.artefacts.run_directory import RunDirectory
from dhox.evidence.ledger import CHANCE
from dhox.evidence.statistics import mcnemar_p, paired_difference_interval
from dhox.reports.judged import Judged
from dhox.reports.pages.device import chip
from dhox.reports.sections import KeyNumber, Verdict
from dhox.reports.text import milliseconds, percent, share, size_text


def run_verdict(folder: RunDirectory, judged: Judged | None, chosen_on_it: bool) -> Verdict:
    """Of a run that was not exported: how good the student is, and against its teacher. `chosen_on_it`: the images that
    judge also chose alpha and beta."""
    sets = folder.run.sets
    labels = KeyNumber(f"{sets.n_labelled:,}", f"labelled images, and {sets.n_unlabelled:,} without labels")
    if judged is None:
        unseen = "No image with a label judged this student: there is neither a test nor a validation split."
        return Verdict(unseen, (KeyNumber(f"{len(folder.run.classes)}", "classes"), labels))
    right = judged.accuracy
    against = _against_teacher(folder, judged)
    told, numbers = [f"The student: {percent(right)} on {_images(judged, chosen_on_it)}"], [_of_accuracy(right, judged)]
    if against:
        told.append(f"{against.value} {against.words.partition(',')[0]}")
        numbers.append(against)
    else:
        numbers += _weakest(judged)
    return Verdict(f"{', '.join(told)}; not exported yet.", (*numbers, labels))


def _images(judged: Judged, chosen_on_it: bool) -> str:
    """How many of which."""
    also = ", which also chose alpha and beta (there is no test split)" if chosen_on_it else ""
    return f"{len(judged.names):,} {judged.split} images{also}"


def _of_accuracy(right: Accuracy, judged: Judged) -> KeyNumber:
    low, high = right.interval
    of = f"of {right.n:,} {judged.split} images right ({100 * low:.1f}-{100 * high:.1f})"
    return KeyNumber(f"{share(right.accuracy)} %", of)


def _against_teacher(folder: RunDirectory, judged: Judged) -> KeyNumber | None:
    """Points above or below the teacher's own answers on the same images, with their paired interval."""
    logits = folder.test if judged.split == "test" else folder.validation
    if logits is None or logits.teacher_predictions is None or [*logits.names] != judged.names:
        return None
    teacher = logits.teacher_predictions == logits.labels
    gained, lost = int((judged.right & ~teacher).sum()), int((teacher & ~judged.right).sum())
    low, high = paired_difference_interval(gained, lost, len(teacher))
    points = 100 * (gained - lost) / len(teacher)
    return KeyNumber(f"{points:+.1f}", f"points against its teacher, {100 * low:+.1f} to {100 * high:+.1f}")


def _weakest(judged: Judged) -> list[KeyNumber]:
    """The class that is recognised least."""
    recalls = [
        (float(judged.right[of].mean()), name)
        for number, name in enumerate(judged.classes)
        if (of := judged.labels == number).any()
    ]
    return [KeyNumber(f"{share(recall)} %", f"of {name}, the weakest class") for recall, name in sorted(recalls)[:1]]


def export_verdict(
    manifest: Manifest, ledger: Ledger, bench: Bench | None, judged: Judged | None, chosen_on_it: bool
) -> Verdict:
    """Of a run that was exported: whether its file ships, how good it is, what the export lost, and how fast it is."""
    entry = next(entry for entry in manifest.artefacts if entry.precision == manifest.default)
    lost, number, worse = lost_since_training(ledger, manifest.default)
    time = _time(bench, entry) if bench else None
    told, numbers = [], []
    if judged is not None:
        told.append(f"{percent(judged.accuracy)} on {_images(judged, chosen_on_it)}")
        numbers.append(_of_accuracy(judged.accuracy, judged))
    failed = [row for row in bench.golden if not row.passed] if bench else []
    start = "Do not ship" if failed else "Look again before you ship" if worse else "Ship"
    told.append(lost)
    said = "not timed yet" if time is None else f"{time.value} {time.words}"
    numbers += [number, time or KeyNumber(size_text(entry.bytes), f"{entry.file}; not timed yet")]
    golden = f"{failed[0].model} fails its golden check here; " if failed else ""
    return Verdict(f"{start} {entry.file}: {golden}{', '.join(told)}; {said}.", tuple(numbers))


def lost_since_training(ledger: Ledger, precision: str) -> tuple[str, KeyNumber, bool]:
    """What the shipped file lost against the student as it was trained, on the same images: in words, as a number, and
    whether it is beyond chance."""
    stages = [stage for stage in ledger.predictions if stage != "teacher"]
    shipped = next((stage for stage in stages if stage == f"onnx_{precision}"), None)
    if ledger.labels is None or not ledger.labels or shipped is None:
        return "what the export lost is not known", KeyNumber("?", "lost since training: no labelled image told"), False
    labels = np.array(ledger.labels)
    before, after = (np.array(ledger.predictions[stage]) == labels for stage in (stages[0], shipped))
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    points, p = 100 * (gained - lost) / len(labels), mcnemar_p(gained, lost)
    words = f"points since training, on {len(labels):,} images: {gained} gained, {lost} lost"
    number = KeyNumber(f"{points:+.1f}" if gained != lost else "0", words)
    if points >= 0:
        return "nothing lost since training", number, False
    chance = "beyond chance" if p < CHANCE else "which may be chance"
    return f"{-points:.1f} points lost since training, {chance}", number, p < CHANCE


def _time(bench: Bench, entry: Artefact) -> KeyNumber | None:
    """The median of one image, of the shipped file; of the fastest other one where this device emulates that."""
    files = {model.name: model.file for model in bench.models}
    rows = [row for row in bench.measured_latency if row.scope == "e2e"] or bench.measured_latency
    smallest = min((row.batch for row in rows), default=None)
    rows = sorted((row for row in rows if row.batch == smallest), key=lambda row: row.latency_ms.p50)
    own = [row for row in rows if files[row.model] == entry.file]
    row = next(iter(own or rows), None)
    if row is None:
        return None
    place = chip(bench, row)
    if not own:
        place = f"{place} with {files[row.model]}; {entry.precision} is emulated there"
    return KeyNumber(f"{milliseconds(row.latency_ms.p50)} ms", f"{_call(row)} on {place}")


def _call(row: LatencyRow) -> str:
    return "per image" if row.batch == 1 else f"per batch of {row.batch}"
