"""A run as sections: what its student answers, how it was trained, and with its export and bench what ships."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from dhox.artefacts.bench import Bench
from dhox.artefacts.common import Accuracy
from dhox.artefacts.files import (
    AUDIT_FILE,
    BENCH_FILE,
    DRIFT_FILE,
    EXPORT_FILE,
    RUN_FILE,
    SWEEP_FILE,
    newest,
    settle_any,
    sha256,
)
from dhox.artefacts.ledger import LEDGER_FILE, Ledger
from dhox.artefacts.manifest import Fold, Manifest
from dhox.artefacts.record import read_record, schema_of
from dhox.artefacts.run import Run, read_run
from dhox.artefacts.run_directory import RunDirectory, open_run
from dhox.errors import DhoxError, UsageError, not_there
from dhox.evidence.calibration import calibration_text
from dhox.export.folding.fold import fold_probs
from dhox.reports.album import open_album
from dhox.reports.html import write_page
from dhox.reports.judged import Judged, Split, judged_by_file, judged_by_probs
from dhox.reports.pages.audit import write_audit_page
from dhox.reports.pages.bench import (
    Beside,
    bench_page,
    golden_sentence,
    ledger_sections,
    read_bench,
)
from dhox.reports.pages.bench_charts import latency_charts
from dhox.reports.pages.curves import slope_lines, training_charts
from dhox.reports.pages.device import device_sentence
from dhox.reports.pages.drift import write_drift_page
from dhox.reports.pages.export import export_page, export_sections
from dhox.reports.pages.gallery import Gallery, gallery_sections, threshold_of
from dhox.reports.pages.run_verdict import export_verdict, run_verdict
from dhox.reports.pages.selection import selection_section
from dhox.reports.pages.sweep import write_sweep_page
from dhox.reports.sections import Page, Section, Verdict, cells, table
from dhox.reports.text import STAGES, decimals, percent, sentence, versions


@dataclass(frozen=True)
class Cost:
    """Weights in bytes, and the median of one image in ms; None where the CPU emulates the precision."""

    bytes: int
    latency_ms: float | None


@dataclass(frozen=True)
class Line:
    """A run with what else there is of its line: its export, the newest bench of that very export, other figures.

    `costs`: of stages that no bench measures; `labels_only`: a run to compare with.
    """

    folder: RunDirectory
    manifest: Manifest | None = None
    ledger: Ledger | None = None
    bench: Bench | None = None
    beside: Beside = field(default_factory=Beside)
    costs: dict[str, Cost] = field(default_factory=dict)
    labels_only: Run | None = None


def write_report(
    folder: Path,
    costs: dict[str, Cost] | None = None,
    labels_only: Path | None = None,
    gallery: int | None = None,
) -> Path:
    """Write the page of a directory: FOLDER/report.html of a run (with its own export and newest bench) or of a bench,
    FOLDER/audit.html, FOLDER/drift.html, or FOLDER/sweep.html.

    `costs` and `labels_only`: see `Line`. `gallery`: pictures of each kind, whatever they weigh; None: as many as 200
    kB hold. Raises DhoxError for a directory that is none of these, and for files that
    dhox did not write.
    """
    settle_any(folder)
    if (folder / AUDIT_FILE).exists():
        return write_audit_page(folder, gallery)
    if (folder / DRIFT_FILE).exists():
        return write_drift_page(folder, gallery)
    if (folder / SWEEP_FILE).exists():
        if gallery is not None:
            raise UsageError(f"{folder} is a sweep, whose page has no pictures.", "Leave out --gallery.")
        return write_sweep_page(folder)
    if (folder / BENCH_FILE).exists():
        bench, beside = read_bench(folder)
        return write_page(folder / "report.html", bench_page(bench, folder, beside, gallery))
    if not (folder / RUN_FILE).exists():
        fix = f"Give one that holds {RUN_FILE}, {BENCH_FILE}, {AUDIT_FILE}, {DRIFT_FILE} or {SWEEP_FILE}."
        if not folder.exists():
            raise not_there(folder, fix.replace("one", "a directory"))
        raise DhoxError(f"{folder} is neither a run nor a bench, an audit, a drift or a sweep.", fix)
    return write_page(folder / "report.html", _line_page(read_line(folder, costs, labels_only), gallery))


def read_line(run: Path, costs: dict[str, Cost] | None = None, labels_only: Path | None = None) -> Line:
    """A run directory with its export and bench, where it has them. Raises DhoxError for damaged files."""
    folder, export = open_run(run), run / "export"
    compared = read_run(labels_only) if labels_only else None
    settle_any(export)
    if not (export / EXPORT_FILE).exists():
        return Line(folder, costs=costs or {}, labels_only=compared)
    manifest, ledger = read_record(export / EXPORT_FILE, Manifest), read_record(export / LEDGER_FILE, Ledger)
    place = newest(run / "bench", BENCH_FILE, schema_of(Bench))
    whole, beside = read_bench(place) if place else (None, Beside())
    bench = own_part(whole, sha256(export / EXPORT_FILE)) if whole else None
    return Line(folder, manifest, ledger, bench, beside, costs or {}, compared)


def own_part(bench: Bench, manifest_sha256: str) -> Bench | None:
    """What a bench says of the models of one export, by the first runner; None where it measured others."""
    names = [model.name for model in bench.models if model.export and model.export.manifest_sha256 == manifest_sha256]
    runner = next((row.runner for row in bench.runners if row.model in names), None)
    if runner is None:
        return None

    def own(rows: list[Any]) -> list[Any]:
        return [row for row in rows if row.model in names and row.runner == runner]

    changed = msgspec.structs.replace
    ledgers = [changed(ledger, rows=own(ledger.rows)) for ledger in bench.ledgers]
    accuracy = changed(bench.accuracy, rows=own(bench.accuracy.rows))
    parts = {"runners": own(bench.runners), "latency": own(bench.latency), "golden": own(bench.golden)}
    return changed(bench, **parts, accuracy=accuracy, ledgers=ledgers)


def run_page(path: Path) -> Page:
    """What `dhox distill`, `retune` and `import-dho` print."""
    line = Line(open_run(path))
    run, verdict = line.folder.run, line_verdict(line, judge(line))
    return Page(f"{path}: {run.student.name}", _run_sentence(run), _run_sections(line.folder), verdict=verdict)


def exported_page(run: Path, export: Path, manifest: Manifest, ledger: Ledger) -> Page:
    """What `dhox export` prints: the export, with what it and its run come to."""
    line = Line(open_run(run), manifest, ledger)
    return replace(export_page(export, manifest, ledger), verdict=line_verdict(line, judge(line)))


def _run_sections(folder: RunDirectory) -> tuple[Section, ...]:
    run = folder.run
    rows = [cells(STAGES[row.stage], percent(row)) for row in run.test or []]
    return (
        Section(notes=(*(f"Note: {note.rstrip('.')}." for note in run.notes), *slope_lines(folder))),
        Section("Accuracy on test", tables=table(f"{run.method}|accuracy (95 % interval)", rows)),
        selection_section(folder.selection, run.method),
    )


def _run_sentence(run: Run) -> str:
    """Method, sets, classes, teacher."""
    sets = run.sets
    return (
        f"{run.method} with {sets.n_labelled} labelled and {sets.n_unlabelled} unlabelled images, {sets.n_validation} "
        f"validation, {sets.n_test} test; {len(run.classes)} classes; "
        + (f"teacher {run.teacher.name}" if run.teacher else "no teacher")
        + (f": {calibration_text(run.teacher.calibration)}" if run.teacher and run.teacher.calibration else "")
    )


def _line_page(line: Line, gallery: int | None) -> Page:
    run, selection = line.folder.run, line.folder.selection
    subtitle = _run_sentence(run)
    if line.bench:
        subtitle += f"; measured on {device_sentence(line.bench.device)}, {line.bench.finished_at[:10]}"
    here = ledger_sections(line.bench, line.beside) if line.bench else []
    exported = export_sections(line.manifest, line.ledger, here) if line.manifest and line.ledger else tuple(here)
    times = latency_charts(line.bench, line.beside.samples)[:1] if line.bench else ()
    judged = judge(line)
    pictures = gallery_sections(line_gallery(line, judged, gallery)) if judged else ()
    sections = (
        *pictures,
        Section("Training and latency", charts=(*training_charts(line.folder), *times), notes=slope_lines(line.folder)),
        line_section(line),
        *exported,
        selection_section(selection, run.method),
        Section("Method", notes=tuple(method_lines(line))),
    )
    title = f"{line.folder.path.name}: {run.student.name}"
    return Page(title, subtitle, sections, verdict=line_verdict(line, judged))


def line_section(line: Line) -> Section:
    """The line stage by stage on test: accuracy, size and latency."""
    costs = (_onnx_costs(line.bench) if line.bench else {}) | line.costs
    rows = [
        cells(STAGES[stage], percent(row), *(_cost_texts(costs.get(stage)) if line.bench else ()))
        for stage, row in _stage_rows(line)
    ]
    caption = f"Test split, {line.folder.run.sets.n_test} images; nothing was chosen on it. Wilson intervals."
    if line.bench:
        runner = line.bench.runners[0].runner
        caption += f" MB: weights. Latency: median of one image, e2e; ONNX rows by {runner}"
        caption += ", the others in torch on the CPU, with the same clock." if line.costs else "."
    titles = "stage|test accuracy" + ("|MB|latency, ms" if line.bench else "")
    return Section("Accuracy, size and latency", tables=table(titles, rows, caption))


def _stage_rows(line: Line) -> list[tuple[str, Accuracy]]:
    rows: list[tuple[str, Any]] = [(row.stage, row) for row in line.folder.run.test or []]
    if line.labels_only and line.labels_only.test:
        rows.insert(1, ("labels_only", line.labels_only.test[0]))
    test = line.folder.test
    if test is not None and line.manifest and line.manifest.fold.rule in {"linear", "exact"}:
        right = fold_probs(test, line.manifest.fold).argmax(-1) == test.labels
        rows.append(("folded_torch", Accuracy.of(right)))
    benched = line.bench.accuracy.rows if line.bench else []
    return rows + [(f"onnx_{row.precision}", row) for row in benched]


def _onnx_costs(bench: Bench) -> dict[str, Cost]:
    models = {model.name: model for model in bench.models}
    times: dict[str, float | None] = {model: None for model, _ in bench.emulated}
    times |= {row.model: row.latency_ms.p50 for row in bench.measured_latency if (row.batch, row.scope) == (1, "e2e")}
    return {f"onnx_{models[name].precision}": Cost(models[name].bytes, time) for name, time in times.items()}


def _cost_texts(cost: Cost | None) -> tuple[str, str]:
    if cost is None:
        return "", ""
    latency = "emulated on CPU" if cost.latency_ms is None else decimals(cost.latency_ms)
    return f"{cost.bytes / 1e6:.2f}", latency


def judge(line: Line) -> Judged | None:
    """What the line's last model answered to the test images, else to the validation images; None without either.

    The last model: the default file of the export where a bench ran it, else the student's stored logits, folded as the
    export folds them.
    """
    run, manifest, bench = line.folder.run, line.manifest, line.bench
    if manifest and bench and bench.accuracy.rows:
        rows = sorted(bench.accuracy.rows, key=lambda row: row.precision == manifest.default)
        answers = line.beside.predictions.get((rows[-1].model, rows[-1].runner), {})
        if judged := judged_by_file(answers, run.labels, f"the {rows[-1].precision} ONNX file"):
            return judged
    logits, fold = line.folder.test, fold_of(line)
    split: Split = "validation" if logits is None else "test"
    logits = line.folder.validation if logits is None else logits
    if not len(logits):
        return None
    by = "the student in torch" + (", folded" if manifest and fold.rule in {"linear", "exact"} else "")
    return judged_by_probs(fold_probs(logits, fold), logits, run.labels, split, by)


def fold_of(line: Line) -> Fold:
    """How the heads answer together: as the export has it, else as the run says."""
    if line.manifest:
        return line.manifest.fold
    selection = line.folder.selection
    return Fold("exact" if line.folder.run.student.two_heads else "single", selection.alpha, selection.beta)


def line_gallery(line: Line, judged: Judged, most: int | None) -> Gallery:
    """The pictures of a run: of DATA where the run found them, as they were then."""
    run, val = line.folder.run, line.folder.validation
    tested = judged.split == "test"
    places = [run.data, *([line.bench.accuracy.data] if line.bench and line.bench.accuracy.data else [])]
    source = "test" if tested else "train" if run.sets.selection == "held-out" else "val"
    known = line.folder.images.by_name("test" if tested else "val")
    album = open_album(places, judged.names, source, most, known)
    reject = line.manifest.reject if line.manifest else None
    return Gallery(judged, album, most, threshold_of(reject, val if len(val) else None, fold_of(line)))


def line_verdict(line: Line, judged: Judged | None) -> Verdict:
    """What the run comes to."""
    selection = line.folder.selection
    chosen_on_it = judged is not None and judged.split == "validation" and selection.searched
    if line.manifest and line.ledger:
        return export_verdict(line.manifest, line.ledger, line.bench, judged, chosen_on_it)
    return run_verdict(line.folder, judged, chosen_on_it)


def method_lines(line: Line) -> list[str]:
    """How the numbers came about."""
    run, bench = line.folder.run, line.bench
    lines = [f"Note: {note.rstrip('.')}." for note in run.notes]
    if training := run.training:
        lines.append(
            f"Training: {training.epochs} epochs of {training.epoch_steps} steps, {training.batch_labelled} labelled "
            f"and {training.batch_unlabelled} unlabelled images per step, AdamW {training.learning_rate:g}, "
            f"{training.views} teacher views per image, seed {training.seed}; the last weights are kept."
        )
    if bench:
        lines += map(sentence, bench.method)
        lines += [f"{model}, not timed: {why}." for (model, _), why in bench.emulated.items()]
        lines += map(golden_sentence, bench.golden)
    return [*lines, versions(bench.environment if bench else run.environment)]
