from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from bench_example import example
from hypothesis import given
from hypothesis import strategies as st

from dhox.artefacts.files import read_json, write_json
from dhox.errors import DhoxError
from dhox.reports.bench.charts import pareto_points
from dhox.reports.bench.page import calibration_bins, write_bench_page
from dhox.reports.bench.text import interval_lines
from dhox.reports.run.page import bench_of_export, write_report


def page_of(folder: Path) -> str:
    return write_bench_page(folder).read_text(encoding="utf-8")


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>([^<]*)", page)


ALWAYS = ["Energy", "Method", "Device", "What was measured"]


@pytest.mark.parametrize(("kind", "charts"), [("cpu", 4), ("cuda", 6), ("jetson", 6)])
def test_every_section_is_drawn_in_order(tmp_path: Path, kind: str, charts: int) -> None:
    example(tmp_path, kind, batches=(1, 8))
    page = page_of(tmp_path)
    expected = [
        "Latency, throughput, energy and accuracy", "Which is faster", "Concurrent streams", "Latency distribution",
        "Latency over time", "Batch size", "Power", "Energy", "Accuracy on this device", "Accuracy ledger", "Classes",
        "Confusion", "Calibration", "Accuracy against latency", "Method", "Device", "What was measured",
    ]  # fmt: skip
    absent = (
        {"Which is faster", "Power", "Accuracy against latency"} if kind == "cpu" else set()
    )  # the rest is emulated
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
        "Clock of the GPU before the bench: 1,300 MHz (limits 1,300 to 1,300), governor nvhost_podgov.",
        "Clock of the memory: not read, only root may read it.",
        "clocks locked, no throttling seen",
        "TensorRT of the board: 10.3.0.30-1+cuda12.5.",
        "(a sum of rails: an estimate)",
        "Peak memory of the bench: 412.0 MB of the machine&#39;s memory and 380.0 MB of this process",
    ):
        assert words in page, words
    example(tmp_path / "cuda", "cuda", batches=(1,))
    page = page_of(tmp_path / "cuda")
    assert "GPU: NVIDIA H200, 150.8 GB, compute capability 9.0, driver 580.82, power limit 700 W" in page
    assert "clocks not locked, throttled: software power cap" in page
    assert "p99 has no interval" not in page


def test_user_text_is_escaped(tmp_path: Path) -> None:
    attack, formula = "<script>alert(1)</script>", "_$x^2$"
    content = example(
        tmp_path, "cuda", subjects=(attack, formula), batches=(1, 2), classes=[attack, formula, "\"'&", "[red]"]
    )
    content["not_run"] = [attack]
    content["device"]["host"] = attack
    write_json(tmp_path / "bench.json", content)
    page = page_of(tmp_path)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "$x^2$" in page


def test_many_models_and_classes_stay_readable(tmp_path: Path) -> None:
    subjects = tuple(f"run-{i}/fp16" for i in range(12))
    example(tmp_path, "cuda", subjects=subjects, batches=(1, 8), classes=[f"class {i}" for i in range(1000)])
    page = page_of(tmp_path)
    assert "Confusion" not in headings(page)
    assert "weakest class first, 40 of 1000; 6 more models in bench.json" in page
    assert "The fastest 8 of 12." in page
    assert len(page) < 1e6


@pytest.mark.parametrize("missing", ["latency", "accuracy", "samples", "one row"])
def test_parts_that_were_not_measured_are_left_out(tmp_path: Path, missing: str) -> None:
    content = copy.deepcopy(example(tmp_path, "jetson", subjects=("fp32",), batches=(1,)))
    content |= {"comparisons": [], "streams": [], "memory": None}
    (tmp_path / "predictions.csv").unlink()
    if missing == "latency":
        content |= {"latency": [], "runners": [], "status": "interrupted", "conditions": None}
        content["energy"] |= {"rows": [], "idle": None, "note": "not measured: interrupted"}
    if missing == "accuracy":
        content["accuracy"] |= {"rows": [], "note": "not run: no test split at x. Give --data."}
        content["ledgers"][0] |= {"rows": [], "images": None, "note": "not run: no images at x. Give --data."}
    if missing == "samples":
        (tmp_path / "samples.npz").unlink()
    if missing == "one row":
        content["latency"] = content["latency"][:1]
    write_json(tmp_path / "bench.json", content)
    page = page_of(tmp_path)
    found = headings(page)
    assert set(ALWAYS) <= set(found)
    assert ("No latency was measured." in page) == ("Interrupted:" in page) == (missing == "latency")
    assert ("Latency distribution" in found) == (missing in {"accuracy", "one row"})
    assert ("Power" in found) == (missing in {"accuracy", "one row"})
    assert ("Classes" in found) == ("Accuracy ledger" in found) == (missing != "accuracy")
    assert ("Accuracy not run: no test split at x. Give --data." in page) == (missing == "accuracy")
    assert not {"Calibration", "Accuracy against latency", "Batch size", "Which is faster"} & set(found)


def test_why_p99_has_no_interval_is_said(tmp_path: Path) -> None:
    content = copy.deepcopy(example(tmp_path, "jetson", subjects=("fp32",), batches=(1,)))
    rows = content["latency"]
    for row, calls in zip(rows, (367, 368, 5000), strict=True):
        row |= {"p99_interval": None, "effective": {"rounds": 40, "calls_at_p99": calls}}
    few, differ = [line for line in interval_lines(content) if line.startswith("p99")]
    assert few.startswith("p99 has no interval in 1 of 3 rows: too few independent calls bound it")
    assert differ.startswith("p99 has no interval in 2 of 3 rows: the levels of its rounds differ")


def test_files_that_no_bench_wrote_are_one_message(tmp_path: Path) -> None:
    content = copy.deepcopy(example(tmp_path, "cpu", subjects=("fp32",), batches=(1,)))
    for change, words in (
        ({"latency": None}, "lacks what a bench holds. Measure again"),
        ({"schema": "dhox.bench/1"}, "has the schema 'dhox.bench/1'"),
    ):
        write_json(tmp_path / "bench.json", content | change)
        with pytest.raises(DhoxError, match=words):
            write_report(tmp_path)
    (tmp_path / "bench.json").write_text("{", encoding="utf-8")
    with pytest.raises(DhoxError, match="is not valid JSON"):
        write_report(tmp_path)
    write_json(tmp_path / "bench.json", content)
    (tmp_path / "predictions.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DhoxError, match="predictions.csv is damaged .* or delete it"):
        write_report(tmp_path)


def test_the_ledger_of_the_export_is_joined_with_this_device(own_line: Path) -> None:
    bench = next((own_line / "runs/tiny/bench").iterdir())
    content = read_json(bench / "bench.json", "dhox.bench/2")
    for place in [*(subject["export"] for subject in content["subjects"]), *content["ledgers"]]:
        place["path" if "path" in place else "export"] = str(own_line / "runs/tiny/export")
    write_json(bench / "bench.json", content)
    page = write_report(bench).read_text(encoding="utf-8")
    stages = re.findall(r'<tr(?: class="here")?><td class="name">([^<]*)</td><td>[\d.]+ %</td>', page)
    assert stages == [
        "teacher, zero-shot", "two heads, torch", "folded, torch", "ONNX fp32", "ONNX fp16", "fp32 by onnxruntime, here",
        "fp16 by onnxruntime, here",
    ]  # fmt: skip
    for row, part in zip(content["accuracy"]["rows"], calibration_bins(bench / "predictions.csv"), strict=True):
        gap = sum(bin_["n"] * abs(bin_["confidence"] - bin_["accuracy"]) for bin_ in part["bins"]) / row["n"]
        assert gap == pytest.approx(row["calibration_error"], abs=1e-5)
    manifest = own_line / "runs/tiny/export/manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    page = write_report(bench).read_text(encoding="utf-8")
    assert "The export&#39;s own rows are not on this machine" in page
    assert "teacher, zero-shot" not in page


def test_the_report_of_a_run_takes_its_own_export_and_the_first_runner(own_line: Path) -> None:
    bench = next((own_line / "runs/tiny/bench").iterdir())
    content = read_json(bench / "bench.json", "dhox.bench/2")
    other = copy.deepcopy(content)
    other["subjects"].append({**content["subjects"][0], "name": "other/fp32", "export": None})
    for rows in (other["latency"], other["runners"], other["accuracy"]["rows"]):
        rows[:0] = [{**row, "subject": "other/fp32"} for row in rows]
        rows += [{**row, "runner": "torch"} for row in rows]
    own = bench_of_export(other, own_line / "runs/tiny/export")
    assert own is not None
    assert own["latency"] == content["latency"]
    assert own["accuracy"]["rows"] == content["accuracy"]["rows"]
    for subject in other["subjects"]:
        subject["export"] = None
    assert bench_of_export(other, own_line / "runs/tiny/export") is None


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_holds_what_nothing_beats(values: list[tuple[int, int]]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "subject": str(i), "runner": "r", "batch": 1, "scope": "e2e", "emulated": None,
            "latency_ms": {"p50": float(p50)}, "p50_interval": [p50, p50], "accuracy": right / 5, "interval": [0, 1],
        }
        for i, (p50, right) in enumerate(values)
    ]  # fmt: skip
    points = pareto_points({"latency": rows, "accuracy": {"rows": rows}})

    def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
        no_worse = one["p50"] <= other["p50"] and one["accuracy"] >= other["accuracy"]
        return bool(no_worse and (one["p50"] < other["p50"] or one["accuracy"] > other["accuracy"]))

    front = [point for point in points if point["front"]]
    assert not any(beats(one, point) for one in points for point in front)
    assert all(any(beats(one, point) for one in front) for point in points if not point["front"])
