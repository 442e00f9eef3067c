from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from plain_files import read_json, write_json

from dhox.reports.pages.run import Cost, write_report


def test_a_run_with_export_and_bench_makes_a_whole_page(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    costs = {"dho": Cost(2_000_000, 1.5)}
    page = write_report(run, costs).read_text(encoding="utf-8")
    for heading in (
        "Accuracy, size and latency",
        "Accuracy ledger",
        "Learning curves",
        "Heads and folds",
        "Latency distribution",
        "Choosing alpha and beta",
        "Confusion matrix",
        "Method",
    ):
        assert f">{heading}" in page, heading
    assert page.count("<svg xmlns") == 3
    assert "1.500" in page
    assert "emulated on CPU" in page
    assert "prefers-color-scheme: dark" in page
    accuracy = read_json(run / "run.json")["test"][-1]["accuracy"]
    assert f"{100 * accuracy:.1f} %" in page


def test_the_page_needs_nothing_from_outside(line: Path, own_line: Path) -> None:
    page = write_report(own_line / "runs/tiny").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img|iframe|object)\b", page)
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page)
    assert not re.findall(r"url\((?!#)", page)
    assert not re.findall(r"@import", page)


def test_class_names_and_paths_are_escaped(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    shutil.rmtree(run / "bench")
    summary = read_json(run / "run.json")
    summary["classes"][0]["name"] = "<script>alert(1)</script>"
    write_json(run / "run.json", summary)
    page = write_report(run).read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_run_alone_and_a_bench_far_from_its_run_still_report(own_line: Path) -> None:
    run, far = own_line / "runs/tiny", own_line / "board"
    shutil.copytree(run / "export", far / "export")
    shutil.rmtree(run / "export")
    page = write_report(run).read_text(encoding="utf-8")
    assert "Learning curves" in page
    assert "Latency distribution" not in page
    import dhox.bench

    manifest = read_json(far / "export/manifest.json")
    manifest["run"]["path"] = "/nowhere"
    write_json(far / "export/manifest.json", manifest)
    page = write_report(dhox.bench(far / "export", duration=0.05, energy=0, batch="1").directory).read_text(
        encoding="utf-8"
    )
    assert "Latency distribution" in page
    assert "Learning curves" not in page


def test_missing_report_libraries_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from dhox.reports.html import report_libraries_missing

    assert report_libraries_missing() is None
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'dhox[report]'" in str(report_libraries_missing())
