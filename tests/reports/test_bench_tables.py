from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from bench_example import example
from hypothesis import given
from hypothesis import strategies as st

from dhox.console import console
from dhox.reports.bench.tables import print_bench
from dhox.reports.bench.text import (
    count_text,
    cross_check_sentence,
    marks,
    milliseconds,
    milliseconds_interval,
    not_as_asked,
    speed,
)
from dhox.reports.tables import percent


def printed(content: dict[str, Any], width: int) -> str:
    before = console.width
    console.width = width
    try:
        with console.capture() as capture:
            print_bench(Path("b"), content)
    finally:
        console.width = before
    return capture.get()


@pytest.mark.parametrize("width", [100, 80])
@pytest.mark.parametrize("second_runner", [None, "tensorrt:graph+nhwc"])
@pytest.mark.parametrize("kind", ["cpu", "cuda", "jetson"])
def test_nothing_is_cut_and_no_number_is_broken(
    tmp_path: Path, kind: str, second_runner: str | None, width: int
) -> None:
    subjects = ("fp32", "a-rather-long-run-name/fp16", "int8")
    content = example(tmp_path, kind, subjects=subjects, batches=(1, 32), second_runner=second_runner)
    text = printed(content, width)
    lines = text.splitlines()
    for line in lines:
        assert len(line.rstrip()) <= width or line.startswith(("b/bench.json", "Next: ")), line
    assert "…" not in text
    for row in content["latency"]:
        times = [
            milliseconds_interval(row["latency_ms"]["p50"], row["p50_interval"]),
            milliseconds(row["latency_ms"]["p99"]),
            count_text(row["images_per_s"]),
        ]
        if not row["emulated"]:
            found = [line for line in lines if f" {row['batch']} " in line and f" {row['scope']} " in line]
            assert any(all(f" {time} " in f"{line} " for time in times) for line in found), times
    for row in content["accuracy"]["rows"]:
        assert percent(row).replace(" %", "") in text
    for row in content["energy"]["rows"]:
        assert f" {count_text(row['mj_per_image'])} " in text
    for row in content["streams"]:
        assert count_text(row["images_per_s"]) in text


def test_marks_are_explained_and_findings_are_sentences(tmp_path: Path) -> None:
    content = example(tmp_path, "cuda", batches=(1,), drifting="fp16")
    text = printed(content, 140)
    assert {marks(content, row) for row in content["latency"]} == {"T", "TD", "FGT"}
    for mark in "FGTD":
        assert f"\n{mark}: " in text
    for mark in "EPUW":
        assert f"\n{mark}: " not in text
    assert "3 nodes of the graph fell back to the CPU - int8, batch 1." in text
    assert "CUDA graph not captured (3 nodes run on the CPU) - int8, batch 1." in text
    assert "Clocks were throttled during the bench: software power cap - " in text
    assert "fp16, batch 1, e2e (+8.0 %)" in text
    assert "Window too short for the sensor - int8, batch 1, device." in text
    assert (
        "LoadGen singlestream, fp32, batch 1, e2e: 0.514 ms, ours 0.511 ms, difference +0.60 % (+0.40 to +0.80)" in text
    )
    assert "trtexec, fp32, batch 1, device: 0.500 ms, ours 0.510 ms, difference -2.00 %; medians; trtexec's own" in text
    for facts in content["runners"]:
        facts |= {"precision_proven": "fp32", "provider": "CPUExecutionProvider", "nodes_off_device": 0, "graph": True}
    found = not_as_asked(content)
    assert "int8 was asked, fp32 is computed - int8, batch 1." in found
    assert any(
        line.startswith("CUDAExecutionProvider was asked, CPUExecutionProvider was used - fp32") for line in found
    )
    assert {marks(content, row) for row in content["latency"] if row["subject"] == "fp16"} == {"PTD"}


def test_a_bench_as_asked_has_no_findings(tmp_path: Path) -> None:
    content = example(tmp_path, "jetson", batches=(1,))
    assert not_as_asked(content) == []
    assert {marks(content, row) for row in content["latency"]} == {""}


def test_few_comparisons_are_sentences_and_emulated_ones_are_none(tmp_path: Path) -> None:
    content = example(tmp_path, "jetson", subjects=("fp32", "fp16"), batches=(1,))
    content["comparisons"][0] |= {"ratio": 0.5, "interval": [0.4, 0.625], "verdict": "faster"}
    content["comparisons"][1] |= {"ratio": 1.0, "interval": [0.96, 1.02], "verdict": "no difference shown"}
    content["comparisons"][2] |= {"interval": None, "verdict": "no difference shown"}
    text = printed(content, 140)
    assert "fp16 is 2.00x (1.60-2.50) as fast as fp32 at batch 1, device." in text
    assert "No difference shown between fp16 and fp32 at batch 1, e2e: 1.00x (0.98-1.04) as fast." in text
    assert "too few rounds for an interval" in text
    assert " as fast" not in printed(example(tmp_path / "cpu", "cpu", subjects=("fp32", "fp16"), batches=(1,)), 140)


def test_many_comparisons_are_a_table(tmp_path: Path) -> None:
    content = example(tmp_path, "jetson")
    text = printed(content, 100)
    assert "How many times as fast" in text
    for row in content["comparisons"]:
        assert speed(row) in text


def test_user_text_is_not_markup(tmp_path: Path) -> None:
    name = "[red]x[/red]"
    content = example(tmp_path, "cuda", subjects=(name, "[/]"), batches=(1,), drifting="[/]")
    content["not_run"] = ["[bold]y[/bold] not run"]
    text = printed(content, 140)
    assert name in text
    assert "[bold]y[/bold] not run." in text


def test_why_a_stream_has_no_p99_is_said(tmp_path: Path) -> None:
    content = copy.deepcopy(example(tmp_path, "cpu", subjects=("fp32",), batches=(1,)))
    content["streams"][1] |= {"p99_ms": None, "p99_note": "only 90 calls ended in 1 s"}
    assert "p99 of fp32, batch 1, 2 streams: only 90 calls ended in 1 s." in printed(content, 100)


@pytest.mark.parametrize("missing", ["latency", "accuracy", "everything"])
def test_what_was_not_measured_is_said(tmp_path: Path, missing: str) -> None:
    content = copy.deepcopy(example(tmp_path, "cpu", subjects=("fp32",), batches=(1,)))
    content |= {"comparisons": [], "streams": [], "conditions": None, "memory": None}
    if missing in {"latency", "everything"}:
        content |= {"latency": [], "runners": [], "status": "interrupted"}
    if missing in {"accuracy", "everything"}:
        content["accuracy"] |= {"rows": [], "note": "not run: no test split at /data/shop. Give --data."}
        content["ledgers"][0] |= {"rows": [], "note": "not run: no images at /data/shop. Give --data."}
        content["golden"] = []
    text = printed(content, 100)
    assert "Energy not measured: no energy counter is readable" in text
    assert ("No latency was measured." in text) == (missing != "accuracy")
    assert ("Interrupted" in text) == (missing != "accuracy")
    assert ("Accuracy not run: no test split" in text) == (missing != "latency")
    assert ("top-1, %" in text) == (missing == "latency")
    assert ("dhox compare" in text) == (missing == "accuracy")


def test_rates_of_a_cross_check_are_whole_and_their_sign_fits(tmp_path: Path) -> None:
    content = example(tmp_path, "cpu")
    offline = content["cross_checks"][0] | {
        "with": "LoadGen offline", "unit": "images/s", "theirs": 12964.2, "ours": 13723.4,
        "difference_percent": {"mean": -5.53, "interval": [-7.1, -4.0]}, "note": None,
    }  # fmt: skip
    assert cross_check_sentence(content, offline) == (
        "LoadGen offline, fp32, batch 1, e2e: 12,964 images/s, ours 13,723 images/s, difference -5.53 % (-7.10 to "
        "-4.00); geometric means over 21 interleaved pairs"
    )


@given(st.floats(1e-4, 1e6))
def test_numbers_keep_three_digits(value: float) -> None:
    for text in (count_text(value), milliseconds(value)):
        assert abs(float(text.replace(",", "")) / value - 1) <= 0.0051
