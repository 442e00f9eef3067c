"""An export: its heads and folds, its ledger, and how each file came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from dhox.artefacts.bench_accuracy import AccuracyRow, Paired
from dhox.artefacts.camera import CameraModel
from dhox.artefacts.engine import Engine
from dhox.artefacts.ledger import Ledger, StageRow
from dhox.artefacts.manifest import Artefact, ComparisonRow, Fold, HalfConversion, Int8Conversion, Manifest
from dhox.models.camera_files import camera_folder
from dhox.models.verify import Check
from dhox.reports.charts import svg
from dhox.reports.sections import Cell, Chart, Column, Page, Section, Table, cells, table
from dhox.reports.text import STAGES, decimals, percent, share


def export_sections(manifest: Manifest, ledger: Ledger, completed: Sequence[Section] = ()) -> tuple[Section, ...]:
    """What an export proves. `completed`: its ledger as a device completed it, shown in the place of its own."""
    return (_heads_section(manifest, ledger), *(completed or [ledger_section(ledger)]), _files_section(manifest))


def export_page(export: Path, manifest: Manifest, ledger: Ledger) -> Page:
    """What `dhox export` and `dhox retune` print."""
    files = [
        f"{export / entry.file}: {entry.bytes / 1e6:.2f} MB{', default' * (entry.precision == manifest.default)}"
        for entry in manifest.artefacts
    ]
    changed = (_retuned_sentence(manifest),) if manifest.retuned_from else ()
    return Page("", "", export_sections(manifest, ledger), (*files, *changed))


def _heads_section(manifest: Manifest, ledger: Ledger) -> Section:
    """Every way to answer from the two heads, and the fold that ships."""
    rows = manifest.comparison
    listed = [
        cells(
            Cell(STAGES[row.stage], "strong" if row.stage == _shipped(manifest.fold) else ""),
            *(percent(row), f"{share(row.agreement_with_dho)} %", decimals(row.calibration_error)),
            "" if row.head_parameters is None else f"{row.head_parameters:,}",
            "" if row.head_us is None else f"{row.head_us:.1f} us",
        )
        for row in rows
    ]
    caption = f"{rows[0].n} images of {ledger.images}" if rows else ""
    orange = (
        "The exported one in orange. Where agreement is high, the paired comparison of the fold tells more than these "
        "intervals."
    )
    return Section(
        "Heads and folds",
        tables=table("head|accuracy|as DHO|ECE|size|time", listed, caption),
        charts=(Chart("", partial(_heads_chart, rows, manifest.fold), orange),) if rows else (),
        notes=(f"Fold: {_fold_sentence(manifest)}",),
    )


def _shipped(fold: Fold) -> str:
    plain = "linear_plain" if fold.z_norm else "linear_tuned"
    return {"linear": plain, "heads": "dho"}.get(fold.rule, fold.rule)


def _heads_chart(rows: list[ComparisonRow], fold: Fold) -> str:
    """Accuracy with its 95 % interval of every way to answer; the exported one in the second colour."""

    def draw(axes: Any) -> None:
        for place, row in enumerate(rows):
            accuracy, (low, high) = 100 * row.accuracy, (100 * bound for bound in row.interval)
            style = {"fmt": "o", "color": "C1" if row.stage == _shipped(fold) else "C0", "capsize": 3, "markersize": 5}
            axes[0].errorbar(accuracy, place, xerr=[[accuracy - low], [high - accuracy]], **style)
        axes[0].set_yticks(range(len(rows)), [STAGES[row.stage] for row in rows])
        axes[0].invert_yaxis()
        axes[0].set_xlabel("validation accuracy, % (95 % interval)")

    return svg(draw)


def ledger_section(ledger: Ledger) -> Section:
    """Accuracy stage by stage, each against the stage before."""
    if not ledger.rows:
        return Section(notes=(f"Ledger {ledger.note}.",))
    caption = (
        f"{ledger.rows[0].n} images of {ledger.images}. Each stage against the one before: same label, images gained "
        "and lost, exact McNemar test. ECE: expected calibration error."
    )
    rows = [ledger_cells(Cell(STAGES[row.stage]), row, row) for row in ledger.rows]
    return Section("Accuracy ledger", tables=(ledger_table(rows, caption),), notes=(f"{loss_sentence(ledger)}.",))


def ledger_table(rows: list[tuple[Cell, ...]], caption: str) -> Table:
    """Rows of `ledger_cells`."""
    columns = (
        Column("stage", "name"), Column("accuracy"), Column("top-5", where="page"), Column("ECE"), Column("same label"),
        Column("largest diff.", where="page"), Column("+ / -"), Column("p"),
    )  # fmt: skip
    return Table(columns, tuple(rows), caption)


def ledger_cells(name: Cell, row: StageRow | AccuracyRow, against: StageRow | Paired | None) -> tuple[Cell, ...]:
    """One stage: accuracy, and the comparison with another stage."""
    both = ("", "", "", "")
    if against is not None and against.agreement is not None:
        both = (
            f"{share(against.agreement)} %",
            decimals(against.largest_difference, ".1e"),
            f"+{against.gained} -{against.lost}",
            decimals(against.mcnemar_p, ".2g"),
        )
    top5 = "" if row.top5 is None else f"{share(row.top5)} %"
    return cells(name, percent(row), top5, decimals(row.calibration_error), *both)


def loss_sentence(ledger: Ledger) -> str:
    """Which stage lost accuracy first, and which lost more after it."""
    texts = [
        f"{STAGES[loss.stage]} ({loss.points:+.1f} points, McNemar p = {loss.mcnemar_p:.2g}, "
        f"{'beyond chance' if loss.beyond_chance else 'which may be chance'})"
        for loss in ledger.losses
    ]
    return f"First stage that lost accuracy: {'; then '.join(texts)}" if texts else "No stage lost accuracy"


def _fold_sentence(manifest: Manifest) -> str:
    """The chosen rule and why."""
    fold, evidence = manifest.fold, manifest.evidence
    if fold.rule == "single":
        return "single: this student has one head."
    if fold.rule == "heads":
        return "none: both heads are kept (--keep-heads)."
    note = f" Note: {manifest.fold_note}." if manifest.fold_note else ""
    proof = "too few validation labels to judge the linear fold on images that did not choose it"
    if evidence:
        proof = (
            f"linear minus DHO inference on {evidence.n} validation images ({evidence.images}): "
            f"{evidence.difference:+.1f} points, one-sided 95 % lower bound {evidence.lower_bound:+.1f}, "
            f"allowed -{evidence.tolerance:g}"
        )
    if fold.rule == "exact":
        why = "asked for" if manifest.fold_asked == "exact" else "not enough evidence for linear"
        return f"exact, {why} ({proof}).{note}"
    why = "asked for" if manifest.fold_asked == "linear" else "enough evidence"
    if manifest.retuned_from:
        why = "the rule of the retuned export"
    r = "infinite (KD head alone)" if fold.r is None else f"{fold.r:.3g}"
    tuned = "given" if fold.tuned_on == "given" else f"tuned on {fold.tuned_on}"
    if fold.z_norm:
        tuned += f", |z| replaced by its harmonic mean {fold.z_norm:.4g}"
    return f"linear, {why}, r = {r}, {tuned} ({proof}).{note}"


def _retuned_sentence(manifest: Manifest) -> str:
    assert manifest.retuned_from is not None
    old, new = manifest.retuned_from.fold, manifest.fold
    numbers = [("alpha", old.alpha, new.alpha), ("beta", old.beta, new.beta), ("r", old.r, new.r)]
    changed = [
        f"{name} {decimals(before, '.4g')} -> {decimals(after, '.4g')}"
        for name, before, after in [*numbers, ("tau", old.tau, new.tau)]
        if before != after
    ]
    text = f"Changed: {', '.join(changed) or 'no number'}."
    if manifest.retuned_from.left_out:
        text += f" Left out, since it holds the old head: {', '.join(manifest.retuned_from.left_out)}."
    return text


def _files_section(manifest: Manifest) -> Section:
    """How each file came about, what it was checked against, where the graphs run, and when the answer is unknown."""
    rows = [
        cells(
            *(f"{check.precision} against {check.against}", check.runner, check.n, f"{share(check.agreement)} %"),
            f"{check.largest_difference:.1e}",
            "by accuracy" if check.tolerance is None else f"{check.tolerance:g}",
        )
        for check in manifest.checks
    ]
    return Section(
        "Checks of the files",
        tables=table("check|<by|images|same label|largest diff.|allowed", rows),
        notes=tuple(_precision_lines(manifest)),
    )


def _precision_lines(manifest: Manifest) -> list[str]:
    """How each precision came about, where the graphs run, and when the answer is unknown."""
    lines = [f"{entry.precision}: {text}." for entry in manifest.artefacts if (text := _conversion_sentence(entry))]
    placements = {entry.precision: _placement_text(entry) for entry in manifest.artefacts}
    where = next(iter(placements.values()))
    if any(isinstance(entry.placement, dict) for entry in manifest.artefacts):
        where = ", ".join(f"{precision} {text}" for precision, text in placements.items())
    lines.append(f"No node of any file computes with the batch size. Placement on CUDA: {where}.")
    if reject := manifest.reject:
        low, high = reject.coverage_interval
        lines.append(
            f"Below a probability of {reject.threshold:.3f} the answer is unknown: {share(reject.coverage)} % "
            f"({share(low)}-{share(high)}) of {reject.n} validation images ({reject.images}) are answered, with "
            f"accuracy {percent(reject.answered)}, all of them with {percent(reject.all)}."
        )
    return lines


def _placement_text(entry: Artefact) -> str:
    """Nodes by provider, or why they are not known."""
    if isinstance(entry.placement, str):
        return entry.placement
    return " and ".join(f"{count} nodes on {provider}" for provider, count in entry.placement.items())


def _conversion_sentence(entry: Artefact) -> str:
    """What a precision conversion did: the share that it reached, and what stayed behind and why."""
    found = entry.conversion
    if found is None:
        return ""
    text = _int8_sentence(found) if isinstance(found, Int8Conversion) else _half_sentence(found)
    return f"{'before retuning, ' if found.before_retuning else ''}{text}"


def _half_sentence(found: HalfConversion) -> str:
    text = f"{100 * found.share:.0f} % of convolutions and matrix products"
    measured = [node for node in found.kept if not node.always]
    if measured:
        first = f"first {measured[0].node} ({measured[0].why})"
        text += f"; {len(measured)} nodes stay fp32 by what {found.n} images show, {first}"
    return text


def _int8_sentence(found: Int8Conversion) -> str:
    unit = f"points of top-1 {'gained' if found.drop < 0 else 'lost'}"
    bound = "" if found.bound is None else f"95 % bound {found.bound:.1f}, "
    text = (
        f"{len(found.quantised)} layers, {100 * found.share:.0f} % of the multiply-adds; ranges ({found.method}) of "
        f"{found.n_calibration} images; {abs(found.drop):.1f} {unit if found.labelled else '% of the answers differ'} "
        f"against fp32 on {found.n_judge} images ({bound}allowed {found.max_drop:g})"
    )
    if found.returned:
        text += f"; back to fp16, the most damaging first: {', '.join(layer.node for layer in found.returned)}"
    return text + (f". {found.advice.rstrip('.')}" if found.advice else "")


def engines_page(export: Path, engines: list[Engine]) -> Page:
    """What building engines prints: a row per engine, then where each is, and what it is not."""
    rows = [
        cells(
            engine.precision,
            f"{engine.options.smallest}:{engine.options.usual}:{engine.options.largest}",
            f"{engine.engine.bytes / 1e6:.1f}",
            f"{100 * engine.parsed.share:.0f} % {engine.precision}",
            f"{100 * engine.compiled.share:.0f} % {engine.precision}" if engine.compiled else "not run",
            "passed" if engine.golden else "not run",
            f"{engine.build_seconds:.1f}",
        )
        for engine in engines
    ]
    title = "engine|batch|MB|graph|compiled|golden check|seconds"
    notes = ("graph, compiled: share of the convolutions and matrix products, as parsed and as compiled.",)
    lines = [line for engine in engines for line in _engine_lines(export, engine)]
    return Page(sections=(Section("", tables=table(title, rows), notes=notes),), ends=tuple(lines))


def _engine_lines(export: Path, engine: Engine) -> list[str]:
    """Where an engine is and for what, and what was not proven of it."""
    where = engine.device.gpu or "any GPU from compute capability 8.0 on"
    lines = [f"{export / 'engines' / engine.folder}: for {where}, {engine.tensorrt.flavour} {engine.tensorrt.version}"]
    notes = [("engine precision", engine.compiled, engine.compiled_note), ("golden", engine.golden, engine.golden_note)]
    lines += [f"{engine.folder}: {what} {note}" for what, found, note in notes if found is None]
    if row := engine.ledger:
        same = "" if row.agreement is None else f"; {share(row.agreement)} % same label as when exported"
        lines.append(f"{engine.folder}: ledger on this device {percent(row)} on {row.n} images{same}.")
    if engine.compiled and engine.compiled.hidden:
        lines.append(f"{engine.folder}: of {len(engine.compiled.hidden)} nodes the engine tells no type")
    if engine.compiled and engine.compiled.differs:
        nodes = [f"{node} {stated} -> {computed}" for node, (stated, computed) in engine.compiled.differs.items()]
        more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
        lines.append(
            f"{engine.folder}: computed in another precision than the file states: {', '.join(nodes[:5])}{more}"
        )
    if engine.options.dla is not None:
        lines.append(f"{engine.folder}: on the GPU, not on DLA: {', '.join(engine.dla_fallback) or 'nothing'}")
    return lines


def cameras_page(export: Path, cameras: list[CameraModel]) -> Page:
    """What adding camera files prints: a row per file, then where each is, and what it answered."""
    rows = [
        cells(
            f"{one.camera.size} {one.camera.format}",
            one.precision,
            f"{100 * one.pixels.equal:.2f}",
            f"{100 * one.pixels.within_one:.3f}",
            f"{one.pixels.largest:.0f}",
            f"{100 * one.check.agreement:.1f}",
            f"{one.cost.mac / 1e9:.3f}",
            f"{one.cost.frame_bytes / 1e6:.2f}",
        )
        for one in cameras
    ]
    title = "camera|precision|equal %|within one level %|largest|same label %|GMAC|MB a frame"
    notes = (
        "equal, within one level, largest: the backbone's input against Pillow's on the same frames, of 255.",
        "same label: as the ordinary file behind Pillow. GMAC: of the preprocessing in the graph.",
    )
    lines = [line for one in cameras for line in _camera_lines(export, one)]
    return Page(sections=(Section("", tables=table(title, rows), notes=notes),), ends=tuple(lines))


def _camera_lines(export: Path, model: CameraModel) -> list[str]:
    """Where a camera file is, and its row of the ledger."""
    file = camera_folder(export, model.camera, model.precision) / model.file
    lines = [f"{file}: held against Pillow on {model.pixels.frames}"]
    if row := model.ledger:
        p = f", McNemar p = {row.mcnemar_p:.2g}" if row.mcnemar_p is not None else ""
        lines.append(
            f"As frames, with labels: {percent(row)} on {row.n} images; {row.gained} gained, {row.lost} lost against "
            f"{model.source.file} behind Pillow{p}."
        )
    else:
        lines.append(f"Ledger: {model.ledger_note}.".replace("..", "."))
    return lines


def verify_page(checks: list[Check]) -> Page:
    """What was checked of an export, and what was found."""
    marks = {True: Cell("passed", "good"), False: Cell("FAILED", "bad"), None: Cell("not run", "doubtful")}
    rows = [cells(check.file, check.what, marks[check.passed], check.found) for check in checks]
    return Page(sections=(Section(tables=table("file|<check|result|<found", rows)),))


def verify_json(checks: list[Check]) -> dict[str, object]:
    """The same as plain values."""
    passed = all(check.passed is not False for check in checks)
    return {"schema": "dhox.verify/1", "passed": passed, "checks": [asdict(check) for check in checks]}
