from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from bench_example import example
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from dhox.artefacts.bench import Bench
from dhox.artefacts.bench_accuracy import DeviceLedger
from dhox.artefacts.bench_energy import Energy
from dhox.artefacts.bench_latency import Effective
from dhox.artefacts.files import BENCH_SCHEMA
from dhox.artefacts.predictions import read_predictions
from dhox.artefacts.record import read_record, write_record
from dhox.console import console
from dhox.reports.pages.bench import bench_page, speed
from dhox.reports.pages.bench_charts import Point, calibration_bins, front
from dhox.reports.pages.bench_findings import interval_lines, marks, not_as_asked
from dhox.reports.pages.run import own_part, write_report
from dhox.reports.terminal import show
from dhox.reports.text import count_text, milliseconds, milliseconds_interval, percent

replace = msgspec.structs.replace


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def headings(page: str) -> list[str]:
    return re.findall(r"<h[23]>([^<]*)", page)


def printed(bench: Bench, width: int) -> str:
    before = console.width
    console.width = width
    try:
        with console.capture() as capture:
            show(bench_page(bench, Path("b")))
    finally:
        console.width = before
    return capture.get()


ALWAYS = {"Energy", "Method", "Device", "What was measured"}


@pytest.mark.parametrize(("kind", "charts"), [("cpu", 4), ("cuda", 6), ("jetson", 6)])
def test_every_section_is_drawn_in_order(tmp_path: Path, kind: str, charts: int) -> None:
    example(tmp_path, kind, batches=(1, 8), drifting="fp16" if kind == "cuda" else None)
    page = page_of(tmp_path)
    expected = [
        "Confusion matrix", "Latency, throughput, energy and accuracy", "Not as asked, or not steady", "Which is faster",
        "Concurrent streams", "Times in charts", "Latency distribution", "Latency over time", "Batch size", "Energy",
        "Power", "Accuracy on this device", "Calibration", "Accuracy against latency", "Accuracy ledger",
        "Golden images", "Classes", "Confusion of the other models", "Cross-checks", "Not measured", "Method", "Device", "What was measured",
    ]  # fmt: skip
    absent = {
        "cpu": {"Which is faster", "Power", "Accuracy against latency"},  # the rest is emulated
        "cuda": {"Not measured"},
        "jetson": {"Not as asked, or not steady", "Not measured"},
    }[kind]
    assert headings(page) == [name for name in expected if name not in absent]
    assert page.count("<svg") == charts
    assert "prefers-color-scheme: dark" in page
    assert not re.findall(r"<(?:script|link|img|iframe|object)\b", page)
    assert not re.findall(r"(?:src|href)=\"(?!#)|url\((?!#)|@import", page)


def test_the_card_and_the_method_are_in_words(tmp_path: Path) -> None:
    example(tmp_path / "jetson", "jetson", batches=(1,))
    page = re.sub(r"\s+", " ", page_of(tmp_path / "jetson"))
    for words in (
        "NVIDIA Jetson AGX Orin Developer Kit (Jetson AGX Orin 64 GB), JetPack 6.2, L4T 36.4.3",
        "power mode MAXN (id 0), jetson_clocks on",
        "1,300 MHz (limits 1,300 to 1,300), governor nvhost_podgov",
        "only root may read it",
        "clocks locked, no throttling seen",
        "10.3.0.30-1+cuda12.5",
        "(a sum of rails: an estimate)",
        "412.0 MB of the machine&#39;s memory and 380.0 MB of this process",
    ):
        assert words in page, words
    example(tmp_path / "cuda", "cuda", batches=(1,))
    page = page_of(tmp_path / "cuda")
    assert "NVIDIA H200, 150.8 GB, compute capability 9.0, driver 580.82, power limit 700 W" in page
    assert "clocks not locked, throttled: software power cap" in page
    assert "p99 has no interval" not in page


def test_user_text_is_escaped(tmp_path: Path) -> None:
    attack, formula = "<script>alert(1)</script>", "_$x^2$"
    bench = example(
        tmp_path, "cuda", models=(attack, formula), batches=(1, 2), classes=[attack, formula, "\"'&", "[red]"]
    )
    write_record(tmp_path / "bench.json", replace(bench, device=replace(bench.device, host=attack)))
    page = page_of(tmp_path)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "$x^2$" in page


def test_user_text_is_not_markup(tmp_path: Path) -> None:
    name = "[red]x[/red]"
    bench = example(tmp_path, "cuda", models=(name, "[/]"), batches=(1,), drifting="[/]")
    text = printed(replace(bench, streams=[replace(row, p99_note="[bold]y[/bold]") for row in bench.streams]), 140)
    assert name in text
    assert "[bold]y[/bold]" in text


def test_many_models_and_classes_stay_readable(tmp_path: Path) -> None:
    models = tuple(f"run-{i}/fp16" for i in range(12))
    example(tmp_path, "cuda", models=models, batches=(1, 8), classes=[f"class {i}" for i in range(1000)])
    page = page_of(tmp_path)
    assert "Confusion" not in headings(page)
    assert "40 of 1000; 6 more models" in page
    assert "The fastest 8 of 12." in page
    assert len(page) < 1e6


def lacking(bench: Bench, missing: str) -> Bench:
    """The bench without what was `missing`."""
    bench = replace(bench, comparisons=[], streams=[], memory=None, cross_checks=[])
    if missing in {"latency", "everything"}:
        none = Energy(note="not measured: interrupted")
        bench = replace(bench, latency=[], runners=[], status="interrupted", conditions=None, energy=none)
    if missing in {"accuracy", "everything"}:
        accuracy = replace(bench.accuracy, rows=[], note="not run: no test split at x. Give --data.")
        ledger = DeviceLedger(export="/exports/run", note="not run: no images at x. Give --data.")
        bench = replace(bench, accuracy=accuracy, ledgers=[ledger], golden=[])
    return bench


@pytest.mark.parametrize("missing", ["latency", "accuracy", "samples", "one row"])
def test_parts_that_were_not_measured_are_left_out(tmp_path: Path, missing: str) -> None:
    bench = lacking(example(tmp_path, "jetson", models=("fp32",), batches=(1,)), missing)
    (tmp_path / "predictions.csv").unlink()
    if missing == "samples":
        (tmp_path / "samples.npz").unlink()
    if missing == "one row":
        bench = replace(bench, latency=bench.latency[:1])
    write_record(tmp_path / "bench.json", bench)
    page = page_of(tmp_path)
    found = headings(page)
    assert set(found) >= ALWAYS
    assert ("No latency was measured." in page) == ("Interrupted:" in page) == (missing == "latency")
    assert ("Latency distribution" in found) == (missing in {"accuracy", "one row"})
    assert ("Power" in found) == (missing in {"accuracy", "one row"})
    assert ("Classes" in found) == ("Accuracy ledger" in found) == (missing != "accuracy")
    assert ("Accuracy not run: no test split at x. Give --data." in page) == (missing == "accuracy")
    assert not {"Calibration", "Accuracy against latency", "Batch size", "Which is faster"} & set(found)


@pytest.mark.parametrize("missing", ["latency", "accuracy", "everything"])
def test_what_was_not_measured_is_printed(tmp_path: Path, missing: str) -> None:
    text = printed(lacking(example(tmp_path, "cpu", models=("fp32",), batches=(1,)), missing), 100)
    assert "Energy not measured: " in text
    assert ("No latency was measured." in text) == ("Interrupted" in text) == (missing != "accuracy")
    assert ("Accuracy not run: no test split" in text) == (missing != "latency")
    assert ("top-1" in text) == (missing == "latency")
    assert ("dhox compare" in text) == (missing == "accuracy")


def test_why_p99_is_missing_is_said(tmp_path: Path) -> None:
    bench = example(tmp_path, "jetson", models=("fp32",), batches=(1,))
    rows = [
        replace(row, p99_interval=None, effective=Effective(40, calls))
        for row, calls in zip(bench.latency, (367, 368, 5000), strict=True)
    ]
    few, differ = [line for line in interval_lines(replace(bench, latency=rows)) if line.startswith("p99")]
    assert "1 of 3" in few
    assert "too few" in few
    assert "2 of 3" in differ
    streams = [replace(bench.streams[1], p99_ms=None, p99_note="only 90 calls ended in 1 s")]
    text = " ".join(printed(replace(bench, streams=streams), 100).split())
    assert "p99 of fp32, batch 1, 2 streams: only 90 calls ended in 1 s." in text


def test_files_that_no_bench_wrote_are_one_message(tmp_path: Path) -> None:
    example(tmp_path, "cpu", models=("fp32",), batches=(1,))
    whole = (tmp_path / "bench.json").read_bytes()
    for damage, at, facts in (
        (whole.replace(b'"rounds": 40', b'"rounds": "40"', 1), "decode", ["settings.rounds"]),
        (whole.replace(BENCH_SCHEMA.encode(), b"dhox.bench/1"), "check_schema", ["'dhox.bench/1'"]),
        (whole.replace(b'"flags": []', b'"flags": [""]', 1), "decode", ["flags"]),
        (b"{", "decode", ["JSON"]),
    ):
        (tmp_path / "bench.json").write_bytes(damage)
        with refuses("bench.json", *facts, at=f"artefacts.record.{at}"):
            write_report(tmp_path)
    (tmp_path / "bench.json").write_bytes(whole)
    for name in ("predictions.csv", "samples.npz"):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"a,b\n1,2\n")
        with refuses(name, at="artefacts"):
            write_report(tmp_path)
        (tmp_path / name).write_bytes(before)
    write_report(tmp_path)


def test_the_ledger_of_the_export_is_joined_with_this_device(own_line: Path) -> None:
    folder = next((own_line / "runs/tiny/bench").iterdir())
    export = str(own_line / "runs/tiny/export")
    bench = read_record(folder / "bench.json", Bench)
    models = [replace(model, export=model.export and replace(model.export, path=export)) for model in bench.models]
    bench = replace(bench, models=models, ledgers=[replace(ledger, export=export) for ledger in bench.ledgers])
    write_record(folder / "bench.json", bench)
    page = page_of(folder)
    ledger = page[page.index("<h2>Accuracy ledger") : page.index("<h2>Golden")]
    assert re.findall(r'<td data-title="stage"[^>]*>([^<]*)</td>', ledger) == [
        "teacher, zero-shot", "as trained", "two heads, torch", "folded, torch", "ONNX fp32", "ONNX fp16", "fp32 by onnxruntime, here",
        "fp16 by onnxruntime, here",
    ]  # fmt: skip
    predictions = read_predictions(folder / "predictions.csv")
    for row in bench.accuracy.rows:
        bins = calibration_bins(predictions[row.model, row.runner])
        gap = sum(one.n * abs(one.confidence - one.accuracy) for one in bins) / row.n
        assert gap == pytest.approx(row.calibration_error, abs=1e-5)
    manifest = own_line / "runs/tiny/export/manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    page = page_of(folder)
    assert "The export&#39;s own rows are not on this machine" in page
    assert "teacher, zero-shot" not in page


def test_the_report_of_a_run_takes_its_own_export_and_the_first_runner(tmp_path: Path) -> None:
    bench = example(tmp_path, "cuda", models=("fp32", "fp16", "other"), batches=(1,), second_runner="torch")
    models = [*bench.models[:2], replace(bench.models[2], export=None)]
    bench = replace(bench, models=models, runners=bench.runners[::-1], accuracy=bench.accuracy)
    own = own_part(bench, "a" * 64)
    assert own is not None
    for rows in (own.latency, own.accuracy.rows, own.golden, own.runners):
        assert {(row.model, row.runner) for row in rows} <= {("fp32", "torch"), ("fp16", "torch")}
    assert len(own.accuracy.rows) == 2
    assert own_part(bench, "b" * 64) is None


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_holds_what_nothing_beats(values: list[tuple[int, int]]) -> None:
    points = [Point(str(i), "r", ms, right, (0, 100)) for i, (ms, right) in enumerate(values)]

    def beats(one: Point, other: Point) -> bool:
        no_worse = one.ms <= other.ms and one.accuracy >= other.accuracy
        return no_worse and (one.ms < other.ms or one.accuracy > other.accuracy)

    best = front(points)
    assert not any(beats(one, point) for one in points for point in best)
    assert all(any(beats(one, point) for one in best) for point in points if point not in best)


@pytest.mark.parametrize("width", [100, 80])
@pytest.mark.parametrize("second_runner", [None, "tensorrt:graph+nhwc"])
@pytest.mark.parametrize("kind", ["cpu", "cuda", "jetson"])
def test_nothing_is_cut_and_no_number_is_broken(
    tmp_path: Path, kind: str, second_runner: str | None, width: int
) -> None:
    models = ("fp32", "a-rather-long-run-name/fp16", "int8")
    bench = example(tmp_path, kind, models=models, batches=(1, 32), second_runner=second_runner)
    text = printed(bench, width)
    lines = text.splitlines()
    for line in lines:
        assert len(line.rstrip()) <= width or line.startswith(("b/bench.json", "Next: ")), line
    assert "…" not in text
    for row in bench.measured_latency:
        found = [f"{line} " for line in lines if f" {row.batch} " in line and f" {row.scope} " in line]
        for time in (
            milliseconds_interval(row.latency_ms.p50, row.p50_interval),
            milliseconds(row.latency_ms.p99),
            count_text(row.images_per_s),
        ):
            assert any(f" {time} " in line for line in found), time
    for row in bench.accuracy.rows:
        assert percent(row) in text
    for row in bench.energy.rows:
        assert f" {count_text(row.mj_per_image)} " in text
    for row in bench.streams:
        assert count_text(row.images_per_s) in text
    for row in bench.comparisons if kind != "cpu" else []:
        assert speed(row) in text


def test_marks_are_explained_and_findings_are_sentences(tmp_path: Path) -> None:
    bench = example(tmp_path, "cuda", batches=(1,), drifting="fp16")
    text = printed(bench, 140)
    assert {marks(bench, row) for row in bench.latency} == {"T", "TD", "FGT"}
    for mark in "FGTD":
        assert f"\n{mark}: " in text
    for mark in "EPUW":
        assert f"\n{mark}: " not in text
    assert "3 nodes of the graph fell back to the CPU - int8, batch 1." in text
    assert "CUDA graph not captured (3 nodes run on the CPU) - int8, batch 1." in text
    assert "software power cap - " in text
    assert "fp16, batch 1, e2e (+8.0 %)" in text
    assert "Window too short for the sensor - int8, batch 1, device." in text
    assert "0.514 ms, ours 0.510 ms, difference +0.78 %" in text
    assert "0.500 ms, ours 0.510 ms, difference -1.96 %" in text
    wrong = {"precision_proven": "fp32", "provider": "CPUExecutionProvider", "nodes_off_device": 0, "graph": True}
    bench = replace(bench, runners=[replace(row, facts=replace(row.facts, **wrong)) for row in bench.runners])
    found = not_as_asked(bench)
    assert "int8 was asked, fp32 is computed - int8, batch 1." in found
    assert any("CUDAExecutionProvider was asked, CPUExecutionProvider was used" in line for line in found)
    assert {marks(bench, row) for row in bench.latency if row.model == "fp16"} == {"PTD"}


def test_a_bench_as_asked_has_no_findings(tmp_path: Path) -> None:
    bench = example(tmp_path, "jetson", batches=(1,))
    assert not_as_asked(bench) == []
    assert {marks(bench, row) for row in bench.latency} == {""}


def test_comparisons_say_how_many_times_as_fast_and_emulated_ones_are_none(tmp_path: Path) -> None:
    bench = example(tmp_path, "jetson", models=("fp32", "fp16"), batches=(1,))
    first, second, third = bench.comparisons
    rows = [
        replace(first, ratio=0.5, interval=(0.4, 0.625), verdict="faster"),
        replace(second, ratio=1.0, interval=(0.96, 1.02), verdict="no difference shown"),
    ]
    text = printed(replace(bench, comparisons=[*rows, third]), 140)
    assert "2.00x (1.60-2.50) " in text
    assert "1.00x (0.98-1.04) =" in text
    assert "=: no difference shown" in text
    cpu = example(tmp_path / "cpu", "cpu", models=("fp32", "fp16"), batches=(1,))
    assert "Which is faster" not in printed(cpu, 140)


@given(st.floats(1e-4, 1e6))
def test_numbers_keep_three_digits(value: float) -> None:
    for text in (count_text(value), milliseconds(value)):
        assert abs(float(text.replace(",", "")) / value - 1) <= 0.0051
