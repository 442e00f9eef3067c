"""A bench as sections: what was measured, how, and on what."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dhox.artefacts.bench import Bench
from dhox.artefacts.bench_accuracy import AccuracyRow, DeviceLedger, GoldenRow
from dhox.artefacts.bench_latency import ComparisonRow, CrossCheck
from dhox.artefacts.files import BENCH_FILE, EXPORT_FILE, sha256
from dhox.artefacts.ledger import LEDGER_FILE, Ledger
from dhox.artefacts.predictions import PREDICTIONS_FILE, Answers, read_predictions
from dhox.artefacts.record import read_record
from dhox.artefacts.samples import SAMPLES_FILE, Samples, read_samples
from dhox.errors import DhoxError, dhox_command
from dhox.models.export_directory import Export, open_export
from dhox.reports.album import open_album
from dhox.reports.judged import judged_by_file
from dhox.reports.pages.bench_cameras import camera_section
from dhox.reports.pages.bench_charts import calibration_charts, latency_charts, pareto_charts, power_charts
from dhox.reports.pages.bench_findings import (
    MARKS,
    energy_lines,
    interval_lines,
    marks,
    not_as_asked,
    not_asked,
    not_measured,
    several_runners,
    who,
)
from dhox.reports.pages.bench_verdict import bench_verdict, best_of
from dhox.reports.pages.device import card_lines, device_sentence
from dhox.reports.pages.export import ledger_cells, ledger_table, loss_sentence
from dhox.reports.pages.gallery import Gallery, Threshold, confusion_table, gallery_sections, threshold_of
from dhox.reports.sections import Cell, Column, Page, Section, Table, cells, table
from dhox.reports.text import (
    STAGES,
    count_text,
    decimals,
    milliseconds,
    milliseconds_interval,
    percent,
    sentence,
    share,
    size_text,
    versions,
)

MOST_CLASSES = 40  # rows of the table of classes, the weakest first
MOST_COLUMNS = 6  # models in the table of classes


@dataclass(frozen=True)
class Beside:
    """What a page takes from the files beside bench.json, and the terminal does without; `exports` and `ledgers`: by
    the path of an export, where it is still the very one."""

    samples: Samples | None = None
    predictions: dict[tuple[str, str], Answers] = field(default_factory=dict)
    exports: dict[str, Export] = field(default_factory=dict)
    ledgers: dict[str, Ledger] = field(default_factory=dict)


NOTHING = Beside()


def read_bench(folder: Path) -> tuple[Bench, Beside]:
    """bench.json and the files beside it. Raises DhoxError where one of them is damaged."""
    bench = read_record(folder / BENCH_FILE, Bench)
    digests = {model.export.path: model.export.manifest_sha256 for model in bench.models if model.export}
    found = {path: own_export(Path(path), digest) for path, digest in digests.items()}
    exports = {path: export for path, export in found.items() if export is not None}
    ledgers = {path: ledger for path, export in exports.items() if (ledger := export_ledger(export)) is not None}
    samples = read_samples(folder / SAMPLES_FILE, bench)
    return bench, Beside(samples, read_predictions(folder / PREDICTIONS_FILE), exports, ledgers)


def own_export(path: Path, manifest_sha256: str) -> Export | None:
    """The very export that was benched; None where that is gone, was replaced or is damaged."""
    try:
        return open_export(path) if sha256(path / EXPORT_FILE) == manifest_sha256 else None
    except (DhoxError, OSError):
        return None


def export_ledger(export: Export) -> Ledger | None:
    """ledger.json of an export; None where it is damaged."""
    try:
        return read_record(export.path / LEDGER_FILE, Ledger)
    except DhoxError:
        return None


def bench_gallery(bench: Bench, beside: Beside, most: int | None) -> Gallery | None:
    """The pictures of what the model of the verdict answered; None where it answered no image."""
    best = best_of(bench)
    if best is None or best.right is None:
        return None
    answers = beside.predictions.get((best.model, best.runner), {})
    judged = judged_by_file(answers, bench.accuracy.classes, who(bench, best.right))
    if judged is None:
        return None
    link = next(model.export for model in bench.models if model.name == best.model)
    export = beside.exports.get(link.path) if link else None
    places = [bench.accuracy.data or "", export.manifest.data if export else ""]
    album = open_album([place for place in places if place], judged.names, "test", most, _known(bench, export))
    return Gallery(judged, album, most, _threshold(export) if export else None)


def _known(bench: Bench, export: Export | None) -> dict[str, str]:
    """What the test images were, by name, where the bench found them as the run did."""
    images = bench.accuracy.images
    if export is None or images is None or images.changed or images.new:
        return {}
    try:
        return export.images().by_name("test")
    except DhoxError:
        return {}


def _threshold(export: Export) -> Threshold | None:
    manifest = export.manifest
    try:
        return threshold_of(manifest.reject, export.validation(), manifest.fold)
    except DhoxError:
        return None


def bench_page(bench: Bench, folder: Path, beside: Beside = NOTHING, most: int | None = None) -> Page:
    """The whole bench. `beside`: what the charts need; without it the page is for the terminal. `most`: pictures of
    each kind, whatever they weigh; None: as many as the page may embed."""
    gallery = bench_gallery(bench, beside, most)
    halted = "Interrupted: this is what was measured until then."
    sections = (
        Section(intro=(halted,) if bench.status != "complete" else (), marked=True),
        *(gallery_sections(gallery) if gallery else ()),
        _latency_section(bench),
        Section("Not as asked, or not steady", notes=tuple(not_as_asked(bench)), marked=True),
        camera_section(bench),
        _comparison_section(bench),
        _stream_section(bench),
        Section("Times in charts", charts=latency_charts(bench, beside.samples), where="page"),
        _energy_section(bench, beside),
        _accuracy_section(bench, beside),
        *ledger_sections(bench, beside),
        Section("Golden images", notes=tuple(golden_sentence(row) for row in bench.golden)),
        class_section(bench),
        confusion_section(bench, gallery.judged.by if gallery else ""),
        *_method_sections(bench),
    )
    ends = [f"{folder / BENCH_FILE}"]
    if bench.status == "complete" and bench.latency:
        ends.append(f"Next: {dhox_command('compare', folder / BENCH_FILE, 'NEW/bench.json')} after a change")
    return Page(
        f"Bench on {bench.device.host}",
        f"{device_sentence(bench.device)}; {bench.finished_at[:10]}",
        sections,
        tuple(ends),
        bench_verdict(bench),
    )


def _latency_section(bench: Bench) -> Section:
    """The first table: a row per model, runner, batch and scope, in groups that may be compared."""
    if not bench.measured_latency:
        return Section("Latency, throughput, energy and accuracy", intro=("No latency was measured.",))
    scopes = bench.settings.scopes
    rows = sorted(bench.measured_latency, key=lambda row: (scopes.index(row.scope), row.batch))
    energy = {(row.model, row.runner, row.batch, row.scope): row for row in bench.energy.rows}
    correct = {(row.model, row.runner): row for row in bench.accuracy.rows}
    runners, found = several_runners(bench), [marks(bench, row) for row in rows]
    keys = [Column("model", "name"), *[Column("runner", "name")] * runners, Column("batch"), Column("scope", "text")]
    marked = any(found) or bool(bench.emulated)
    keys += [Column("", "text")] * marked
    values = [Column("p50"), Column("p99", where="terminal"), Column("p99", where="page"), Column("max", where="page")]
    values += [Column("images/s"), *[Column("mJ/image", spare=True)] * bool(energy)]
    values += [Column("top-1, %", spare=True)] * bool(correct)
    lines = []
    for row, letters in zip(rows, found, strict=True):
        ms, spent, right = row.latency_ms, energy.get(row.key), correct.get((row.model, row.runner))
        tip = "; ".join(MARKS[letter] for letter in letters)
        key: list[Cell | str | int | None] = [row.model, *[row.runner] * runners, row.batch, row.scope]
        key += [Cell(letters, tip=tip)] * marked
        times = [
            milliseconds_interval(ms.p50, row.p50_interval),
            milliseconds(ms.p99),
            milliseconds_interval(ms.p99, row.p99_interval),
            milliseconds(ms.max),
            count_text(row.images_per_s),
        ]
        spent_cell = [count_text(spent.mj_per_image) if spent else "-"] * bool(energy)
        right_cell = [percent(right, "") if right else "-"] * bool(correct)
        lines.append(cells(*key, *times, *spent_cell, *right_cell))
    groups = [(row.scope, row.batch) for row in rows]
    breaks = frozenset(number for number in range(1, len(rows)) if groups[number] != groups[number - 1])
    breaks |= {len(rows)} if bench.emulated else set()
    for (model, runner), why in bench.emulated.items():
        right = correct.get((model, runner))
        right_cell = [percent(right, "") if right else "-"] * bool(correct)
        key = [model, *[runner] * runners, "", "", Cell("E", tip=why)]
        lines.append(cells(*key, "not timed", "-", "-", "-", "-", *["-"] * bool(energy), *right_cell))
    caption = "Times in ms per call, with 95 % intervals" + ("" if runners else f"; runner {rows[0].runner}")
    whole = Table((*keys, *values), tuple(lines), f"{caption}. Compare rows of one group.", len(keys), breaks)
    legend = [
        f"{mark}: {meaning}."
        for mark, meaning in MARKS.items()
        if mark in "".join([*found, *["E"] * len(bench.emulated)])
    ]
    return Section("Latency, throughput, energy and accuracy", tables=(whole,), notes=tuple(legend))


def _told_comparisons(bench: Bench) -> list[ComparisonRow]:
    """The comparisons of which both sides were really measured (an emulated time compares with nothing)."""
    left_out = {*bench.emulated}
    return [
        row
        for row in bench.comparisons
        if not {(row.reference_model, row.reference_runner), (row.model, row.runner)} & left_out
    ]


def _comparison_section(bench: Bench) -> Section:
    """Ratios of speed: a line per pair and batch, a column per scope."""
    rows, several = _told_comparisons(bench), several_runners(bench)
    scopes = [name for name in bench.settings.scopes if any(row.scope == name for row in rows)]
    lines: dict[tuple[str, str, int], dict[str, str]] = {}
    for row in rows:
        reference = row.reference_model + (f" by {row.reference_runner}" if several else "")
        equal = " =" if row.verdict == "no difference shown" else ""
        lines.setdefault((who(bench, row), reference, row.batch), {})[row.scope] = speed(row) + equal
    columns = (Column("model", "name"), Column("against", "name"), Column("batch"), *map(Column, scopes))
    listed = [cells(*key, *(found.get(name, "-") for name in scopes)) for key, found in lines.items()]
    caption = "How many times as fast, measured side by side in random order, with 95 % intervals."
    caption += " =: no difference shown." if any(row.verdict == "no difference shown" for row in rows) else ""
    return Section("Which is faster", tables=(Table(columns, tuple(listed), caption, 3),) if rows else ())


def speed(row: ComparisonRow) -> str:
    """How many times as fast the model of a comparison is, with its interval."""
    low, high = row.interval
    return f"{factor(1 / row.ratio)}x ({factor(1 / high)}-{factor(1 / low)})"


def factor(value: float) -> str:
    """How many times, with three significant digits."""
    return f"{value:.2f}" if 1 <= value < 10 else f"{value:.3g}"


def _stream_section(bench: Bench) -> Section:
    """Throughput of concurrent streams, and the latency that each of them sees."""
    rows = [
        cells(
            *(who(bench, row), row.batch, row.streams),
            f"{count_text(row.images_per_s)} ({'-'.join(count_text(end) for end in row.interval)})",
            milliseconds(row.p50_ms),
            "-" if row.p99_ms is None else milliseconds(row.p99_ms),
        )
        for row in bench.streams
    ]
    caption = "Throughput of several callers at once, and the latency that each of them sees."
    return Section(
        "Concurrent streams", tables=table("model|batch|streams|images/s (95 %)|p50, ms|p99, ms", rows, caption)
    )


def _energy_section(bench: Bench, beside: Beside) -> Section:
    rails = len(bench.energy.rails) > 1
    rows = [
        cells(
            *(f"{who(bench, row)}, batch {row.batch}, {row.scope}", f"{row.seconds:.0f}", f"{row.mean_w:.1f}"),
            *map(count_text, (row.mj_per_image, row.net_mj_per_image, row.images_per_joule, row.mj_per_correct)),
            *[", ".join(f"{rail} {watts:.1f}" for rail, watts in row.rails_w.items())] * rails,
        )
        for row in bench.energy.rows
    ]
    titles = "row|seconds|W|mJ/image|net|images/J|mJ/correct" + "|page:rails, mean W" * rails
    caption = "mJ/image holds everything that the meter sees; net: without the idle power."
    charts = power_charts(bench, beside.samples)
    return Section("Energy", tables=table(titles, rows, caption), charts=charts, notes=tuple(energy_lines(bench)))


def _accuracy_section(bench: Bench, beside: Beside) -> Section:
    """Accuracy on the device, against the first model, with calibration and the trade-off against latency."""
    found = bench.accuracy
    rows = [ledger_cells(Cell(who(bench, row)), row, row.reference) for row in found.rows]
    rows = [(*row, *cells(decimals(one.nll), one.n)) for row, one in zip(rows, found.rows, strict=True)]
    charts = (*calibration_charts(bench, beside.predictions), *pareto_charts(bench))
    if not rows:
        return Section("Accuracy on this device", charts=charts)
    caption = f"{found.split.capitalize()} split at {found.data}; Wilson's intervals. ECE: expected calibration error. "
    caption += "NLL: negative log-likelihood, nats."
    if any(row.reference for row in found.rows):
        caption += f" Same label, images gained and lost, McNemar's exact p: against {who(bench, found.rows[0])}."
    shared = ledger_table([], "").columns
    columns = (Column("model", "name"), Column("top-1"), *shared[2:], Column("NLL", where="page"), Column("images"))
    return Section("Accuracy on this device", tables=(Table(columns, tuple(rows), caption),), charts=charts)


def ledger_sections(bench: Bench, beside: Beside) -> list[Section]:
    """The ledger of every export of the bench, joined with what its files answered on this device."""
    return [ledger_section(ledger, beside.ledgers.get(ledger.export)) for ledger in bench.ledgers if ledger.rows]


def ledger_section(here: DeviceLedger, ledger: Ledger | None) -> Section:
    """One ledger: the export's own rows, then the rows of this device in bold."""
    rows = [ledger_cells(Cell(STAGES[row.stage]), row, row) for row in (ledger.rows if ledger else [])]
    for row in here.rows:
        name = Cell(f"{row.model} by {row.runner}, here", "strong")
        rows.append(ledger_cells(name, row, row))
    caption = (
        f"{here.export}; images: {ledger.images if ledger else here.images}. Stages are compared with the stage "
        "before, rows in bold (this device) with the answers of the same file when it was exported."
    )
    notes = (f"{loss_sentence(ledger)}.",) if ledger else ()
    lost = Section(notes=() if ledger else ("The export's own rows are not on this machine.",), where="page")
    return Section("Accuracy ledger", tables=(ledger_table(rows, caption),), notes=notes, parts=(lost,))


def golden_sentence(row: GoldenRow) -> str:
    """What a golden check found."""
    difference = "not finite" if row.largest_difference is None else f"{row.largest_difference:.1e}"
    found = "passed" if row.passed else f"FAILED ({row.failure})"
    return (
        f"Golden check, {row.model} by {row.runner}: {found}, {row.n} images, largest difference of a probability "
        f"{difference}."
    )


def class_section(bench: Bench) -> Section:
    """Recall and precision per class, the weakest class of the first model first."""
    rows = bench.accuracy.rows[:MOST_COLUMNS]
    if not rows:
        return Section()
    per_class = [{one.name: f"{share(one.recall)} / {share(one.precision)}" for one in row.per_class} for row in rows]
    weakest = sorted(rows[0].per_class, key=lambda entry: 2.0 if entry.recall is None else entry.recall)
    lines = [
        cells(first.name, first.n, *(texts.get(first.name) for texts in per_class)) for first in weakest[:MOST_CLASSES]
    ]
    more, left_out = len(weakest) - len(lines), len(bench.accuracy.rows) - len(rows)
    caption = "Recall / precision in %, weakest class first"
    caption += f", {len(lines)} of {len(weakest)}" if more else ""
    caption += f"; {left_out} more models in bench.json." if left_out else "."
    columns = (Column("class", "name"), Column("images"), *(Column(who(bench, row)) for row in rows))
    return Section("Classes", tables=(Table(columns, tuple(lines), caption, 2),), where="page")


def confusion_section(bench: Bench, shown: str) -> Section:
    """A confusion matrix per model and runner that has one, but for the one that is `shown` with its pictures."""
    parts = tuple(
        Section(who(bench, row), tables=confusion_tables(row), folded=True)
        for row in bench.accuracy.rows
        if row.confusion is not None and who(bench, row) != shown
    )
    return Section("Confusion of the other models" if shown else "Confusion", parts=parts, where="page")


def confusion_tables(row: AccuracyRow) -> tuple[Table, ...]:
    """The confusion matrix of one model; none where there are many classes."""
    if row.confusion is None:
        return ()
    return (confusion_table(np.array(row.confusion), [entry.name for entry in row.per_class]),)


def _cross_check_sentence(bench: Bench, row: CrossCheck) -> str:
    unstable = "; trtexec's own times are unstable" if row.unstable else ""
    note = f"; {row.note.rstrip('.')}" if row.note else ""
    return (
        f"trtexec, {who(bench, row)}, batch {row.batch}, {row.scope}: {milliseconds(row.theirs_ms)} ms, ours "
        f"{milliseconds(row.ours_ms)} ms, difference {row.difference_percent:+.2f} %; medians{note}{unstable}."
    )


def _method_sections(bench: Bench) -> tuple[Section, ...]:
    """How it was measured, what was not, on what device, and which files by which runner."""
    asked = bench.settings
    settings = (
        f"Asked: device {bench.device_asked}, {', '.join(asked.runners)}, batch {', '.join(map(str, asked.batches))}, "
        f"scopes {', '.join(asked.scopes)}, {asked.duration_s:g} s and at least {asked.rounds} rounds for each row, "
        f"seed {asked.seed}. Timed images: {asked.images}."
    )
    method = (*map(sentence, bench.method), settings, *interval_lines(bench), *not_asked(bench))
    return (
        Section("Cross-checks", notes=tuple(_cross_check_sentence(bench, row) for row in bench.cross_checks)),
        Section("Not measured", notes=tuple(not_measured(bench))),
        Section("Method", notes=method, where="page"),
        Section("Device", notes=(*card_lines(bench), versions(bench.environment)), where="page"),
        Section("What was measured", tables=(*_model_tables(bench), *_runner_tables(bench)), where="page"),
    )


def _model_tables(bench: Bench) -> tuple[Table, ...]:
    columns = (Column("model", "name"), Column("precision"), Column("size"), Column("input"), Column("SHA-256"))
    rows = [
        cells(
            *(row.name, row.precision, size_text(row.bytes), row.input_kind, row.sha256[:16]),
            row.path + (f", contract {row.contract}" if row.contract else ""),
        )
        for row in bench.models
    ]
    return (Table((*columns, Column("file", "name")), tuple(rows)),)


def _runner_tables(bench: Bench) -> tuple[Table, ...]:
    rows = [
        cells(
            *(row.model, row.runner, row.batch, row.facts.provider or row.facts.device, decimals(row.open_s, ".2f")),
            "captured" if row.facts.graph else "not captured" if row.facts.graph_asked else "",
            *(row.facts.precision_asked, row.facts.precision_proven or "not proven"),
            "not known" if row.facts.nodes_off_device is None else row.facts.nodes_off_device,
        )
        for row in bench.runners
    ]
    titles = "model|<runner|batch|<by|open, s|<CUDA graph|<precision asked|<proven|nodes on the CPU"
    return table(titles, rows, "How each was run.")
