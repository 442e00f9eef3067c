"""trtexec itself is on no machine of ours. The file of times is made after its documented fields (hence its name), and
a stand-in for the program shows that the command line is one that each major version accepts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from dhox.artefacts.bench import RunnerFacts
from dhox.artefacts.bench_latency import Key, WarmUp
from dhox.artefacts.engine import Builder, EngineOptions
from dhox.bench.bench_models import open_models
from dhox.bench.cells import Opened, TimedImages
from dhox.bench.rounds import Timed
from dhox.bench.trtexec import (
    CheckedEngine,
    cross_check_trtexec,
    find_trtexec,
    parse_times,
    trtexec_arguments,
    trtexec_checks,
    trtexec_version,
)
from dhox.evidence.statistics import percentile

ENGINE = CheckedEngine(Path("e"), "image:1x28x28x3")
OURS = {Key("fp32", "tensorrt", 1, "device"): 1.0}
TIMES = Path(__file__).with_name("synthetic_trtexec_times.json")
KNOWN = {  # of the flags that we use, those that each major version knows
    10: {"--loadEngine", "--shapes", "--warmUp", "--duration", "--iterations", "--exportTimes", "--useCudaGraph",
         "--useSpinWait", "--noDataTransfers", "--versionCompatible", "--useDLACore", "--help"},
    11: {"--loadEngine", "--shapes", "--warmUp", "--duration", "--iterations", "--exportTimes", "--includeDataTransfers",
         "--noCudaGraph", "--versionCompatible", "--useDLACore", "--help"},
}  # fmt: skip


def stand_in(folder: Path, banner: str, major: int = 10) -> Path:
    program = folder / "trtexec"
    program.write_text(
        f"#!{sys.executable}\n"
        "import shutil, sys\n"
        f"print('&&&& RUNNING TensorRT.trtexec [TensorRT {banner}] # trtexec ' + ' '.join(sys.argv[1:]))\n"
        "for argument in sys.argv[1:]:\n"
        f"    if argument.split('=')[0] not in {KNOWN[major]!r}:\n"
        "        print('[01/01/2026-00:00:00] [E] Unknown option: ' + argument)\n"
        "        sys.exit(1)\n"
        "    if argument.startswith('--exportTimes='):\n"
        f"        shutil.copyfile({str(TIMES)!r}, argument.split('=', 1)[1])\n"
    )
    program.chmod(0o755)
    return program


def test_times_are_read_by_field() -> None:
    times = parse_times(TIMES.read_text())
    assert {field: len(values) for field, values in times.items()} == {
        "computeMs": 400, "latencyMs": 400, "h2dMs": 400, "d2hMs": 400,
    }  # fmt: skip
    sums = times["h2dMs"] + times["computeMs"] + times["d2hMs"]
    assert times["latencyMs"] == pytest.approx(sums, abs=1e-5)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"computeMs": 1}]', '{"a": [1]}', "[[]]"])
def test_other_files_are_refused(text: str) -> None:
    with refuses("trtexec", at="bench.trtexec.parse_times"):
        parse_times(text)
    with refuses("trtexec", at="bench.trtexec.parse_times", fix="--duration"):
        parse_times("[]")
    with refuses("trtexec", at="bench.trtexec.parse_times", fix="--duration"):
        parse_times('[{"computeMs": NaN, "latencyMs": 1, "h2dMs": 0, "d2hMs": 0}]')


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(("banner", "major"), [("v101602", 10), ("v110400", 11)])
def test_each_major_version_gets_flags_that_it_knows(tmp_path: Path, banner: str, major: int, graph: bool) -> None:
    program = stand_in(tmp_path, banner, major)
    ours = {Key("fp32", "tensorrt", 8, scope): ms for scope, ms in (("device", 0.82), ("e2e", 0.9), ("pipeline", 3.0))}
    engine = CheckedEngine(Path("model.engine"), "image:8x224x224x3", graph)
    rows = cross_check_trtexec(engine, ours, program)
    assert [row.scope for row in rows] == ["device", "e2e"]
    times = parse_times(TIMES.read_text())
    for row, field, our in zip(rows, ("computeMs", "latencyMs"), (0.82, 0.9), strict=True):
        assert row.theirs_ms == percentile(times[field], 50)
        assert row.difference_percent == pytest.approx(100 * (row.theirs_ms / our - 1))
        assert row.unstable == (np.std(times[field]) / np.mean(times[field]) > 0.025)
        assert "--shapes=image:8x224x224x3" in row.arguments
        assert row.version.startswith(f"{major}.")
        assert ("--useCudaGraph" in row.arguments) == (graph and major == 10)
        assert ("--noCudaGraph" in row.arguments) == (not graph and major == 11)  # 11 has it on by default


def test_versions_of_both_kinds_of_banner(tmp_path: Path) -> None:
    assert trtexec_version(stand_in(tmp_path, "v100300")) == (10, "10.3.0")
    assert trtexec_version(stand_in(tmp_path, "v101602")) == (10, "10.16.2")
    assert trtexec_version(stand_in(tmp_path, "v8602")) == (8, "8.6.2")
    with refuses("trtexec", "TensorRT", at="bench.trtexec.trtexec_version"):
        trtexec_version(stand_in(tmp_path, "unknown"))


def test_what_cannot_be_measured_says_what_to_do(tmp_path: Path) -> None:
    old = stand_in(tmp_path, "v8602")
    with refuses("TensorRT 8", 10, 11, at="bench.trtexec.trtexec_arguments"):
        cross_check_trtexec(ENGINE, OURS, old)
    wrong = stand_in(tmp_path, "v100300", major=11)  # knows none of the flags of 10
    with refuses("--useSpinWait", at="bench.trtexec._run_trtexec"):
        cross_check_trtexec(ENGINE, OURS, wrong)
    (tmp_path / "trtexec").chmod(0o644)
    with refuses("trtexec", "Permission denied", at="bench.trtexec._run_trtexec"):
        trtexec_version(tmp_path / "trtexec")


def test_a_fixed_batch_needs_no_shapes() -> None:
    engine = CheckedEngine(Path("e"), None, graph=True)
    arguments = trtexec_arguments(10, "device", engine, Path("t"))
    assert not any(argument.startswith("--shapes") for argument in arguments)
    assert "--noDataTransfers" in arguments
    assert "--noDataTransfers" not in trtexec_arguments(10, "e2e", engine, Path("t"))


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"version_compatible": False}, []),
        ({"version_compatible": True}, ["--versionCompatible"]),
        ({"dla": 1}, ["--useDLACore=1"]),
    ],
)
@pytest.mark.parametrize(("banner", "major"), [("v101602", 10), ("v110400", 11)])
def test_engines_are_loaded_as_they_were_built(
    line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, banner: str, major: int, options: dict[str, Any],
    flags: list[str],
) -> None:  # fmt: skip
    found = checks_of(line, tmp_path, monkeypatch, stand_in(tmp_path, banner, major), "tensorrt", options)
    assert found.not_run == []
    (row,) = found.cross_checks
    given = row.arguments
    assert [one for one in given if one.startswith(("--versionCompatible", "--useDLACore"))] == flags
    assert given[0] == f"--loadEngine={tmp_path / 'model.engine'}"
    assert "--shapes=image:1x28x28x3" in given


def test_an_engine_of_tensorrt_rtx_is_not_handed_to_trtexec(
    line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"version_compatible": False}
    found = checks_of(line, tmp_path, monkeypatch, stand_in(tmp_path, "v101602"), "tensorrt_rtx", options)
    assert found.cross_checks == []
    (said,) = found.not_run
    assert (said.what, said.model, said.runner, said.batch) == ("trtexec", "fp32", "tensorrt", 1)
    assert "TensorRT-RTX" in said.reason


def checks_of(
    line: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tool: Path, flavour: str, options: dict[str, Any]
) -> SimpleNamespace:
    """What the stand-in for trtexec finds of a model whose engine lies in `folder` with such a sidecar."""
    sidecar = SimpleNamespace(tensorrt=Builder(flavour, "10.3.0"), options=EngineOptions(**options))  # type: ignore[arg-type]
    monkeypatch.setattr("dhox.bench.trtexec.read_sidecar", lambda place: sidecar if place == folder else None)
    monkeypatch.setattr("dhox.bench.trtexec.find_trtexec", lambda: tool)
    (model,) = open_models([line / "runs/tiny/export/model.onnx"])
    facts = RunnerFacts(device="tensorrt", provider_asked="tensorrt", engine=str(folder / "model.engine"))
    runner: Any = SimpleNamespace(name="tensorrt", facts=facts)
    image = next((line / "data/test/bag").iterdir()).read_bytes()
    times = Timed(WarmUp(1.0, True), [np.array([800_000, 820_000, 840_000])], [0.0])
    found = SimpleNamespace(timed={Key("fp32", "tensorrt", 1, "device"): times}, not_run=[], cross_checks=[])
    trtexec_checks([Opened(model, runner, 0.0)], 1, TimedImages([image], "one"), found)  # type: ignore[arg-type]
    return found


def test_trtexec_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("dhox.bench.trtexec.PLACES", (str(tmp_path / "elsewhere/trtexec"),))
    assert find_trtexec() is None
    program = stand_in(tmp_path, "v100300")
    assert find_trtexec() == program
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "elsewhere").mkdir()
    assert find_trtexec() is None
    installed = stand_in(tmp_path / "elsewhere", "v100300")
    assert find_trtexec() == installed
