"""dhox doctor: what loads here and what fixes it; and what boards can take."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from board import board_with_modes, recorded_board, write_file
from refusals import named, refuses
from rich.console import Console

from dhox.cli.main import main
from dhox.console import console
from dhox.doctor.backends import (
    Finding,
    Place,
    cuda_runtime,
    nvml,
    onnxruntime_advice,
    onnxruntime_provider,
    package,
    tensorrt,
    tensorrt_advice,
    this_place,
)
from dhox.doctor.examine import abilities, board, disk
from dhox.doctor.targets import BOARDS, describe_target, parse_target, targets_of
from dhox.errors import UsageError
from dhox.reports.pages.machine import doctor_page, target_page
from dhox.reports.terminal import show
from dhox.system.jetpack import JETPACKS, jetpack_of
from dhox.system.sysroot import VARIABLE

NOWHERE = Place("none", None)
PC = Place("nvidia", None)
ORIN = Place("jetson", jetpack_of("36.4.3"))
THOR = Place("jetson", jetpack_of("38.4.0"))
XAVIER = Place("jetson", jetpack_of("35.4.1"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def test_the_cpu_provider_really_runs_a_graph() -> None:
    finding = onnxruntime_provider("CPUExecutionProvider", NOWHERE)
    assert finding.works
    assert "ran a one-node graph" in finding.found


def test_a_provider_that_is_listed_but_does_not_run_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    finding = onnxruntime_provider("CUDAExecutionProvider", PC)
    assert not finding.works
    assert "lists it, a session f" in finding.found  # fails, or falls back
    assert "dhox[cuda]" in finding.advice


def test_the_text_of_an_import_that_fails_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    finding = tensorrt("tensorrt", PC)
    assert finding == Finding(
        "tensorrt (engines)",
        False,
        "ImportError: libnvinfer.so.10: cannot open shared object file",
        "With an NVIDIA GPU, install it with: pip install 'dhox[tensorrt]'",
    )
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.2"))
    assert named("TensorRT 8.6.2", tensorrt("tensorrt", ORIN).advice)
    assert not package("no_such_module_anywhere", "nothing", "advice").works


def test_a_jetson_says_why_its_python_has_no_tensorrt(root: Path) -> None:
    recorded_board(root, "agx_orin_64gb")
    (root / "usr/lib/python3.42/dist-packages/tensorrt").mkdir(parents=True)
    finding = tensorrt("tensorrt", this_place())
    assert named("Python 3.42", finding.found)
    assert "sudo apt install python3-libnvinfer" in finding.advice


def test_advice_is_for_the_machine_at_hand() -> None:
    assert "needs an NVIDIA GPU" in onnxruntime_advice("CUDAExecutionProvider", NOWHERE)
    assert "dhox[cuda]" in onnxruntime_advice("CUDAExecutionProvider", PC)
    assert "Jetson AI Lab" in onnxruntime_advice("CUDAExecutionProvider", ORIN)
    assert "no kernel for this GPU" in onnxruntime_advice("CUDAExecutionProvider", THOR)
    assert "dhox[cuda]" not in onnxruntime_advice("CUDAExecutionProvider", ORIN)
    assert "dhox[tensorrt]" in tensorrt_advice("tensorrt", PC)
    assert "Do not pip install" in tensorrt_advice("tensorrt", ORIN)
    assert "JetPack 6.1" in tensorrt_advice("tensorrt", XAVIER)
    assert "rails" in nvml(ORIN).advice


def test_the_kind_of_machine(root: Path) -> None:
    assert this_place() == NOWHERE
    write_file(root, "/proc/driver/nvidia/version", "NVRM version\n")
    assert this_place() == PC
    recorded_board(root, "agx_thor_r38.2.0")
    assert this_place() == Place("jetson", jetpack_of("38.2.0"))


def test_the_cuda_self_test_without_a_gpu_says_why() -> None:
    finding = cuda_runtime(NOWHERE)
    if finding.works:
        assert "copied" in finding.found
    else:
        assert finding.advice
        assert "CUDA" in finding.found


def test_a_command_works_when_all_its_parts_do() -> None:
    parts = [Finding(what, True, "") for what in ("onnxruntime CPUExecutionProvider (a)", "onnxruntime CUDAExecutionProvider (b)", "CUDA runtime (c)", "tensorrt (engines)", "torch (d)", "torch on CUDA (e)", "open_clip (f)", "timm (g)", "onnx (h)", "onnxscript (i)")]  # fmt: skip
    assert all(row.works for row in abilities(parts, ORIN))
    assert "dhox bench --device jetson" in {row.what for row in abilities(parts, ORIN)}
    for missing, lost in {
        "onnxruntime CUDA": {"dhox bench --device cuda"},
        "CUDA runtime": {"dhox bench --device tensorrt"},
        "tensorrt (": {"dhox bench --device tensorrt"},
        "torch (": {"dhox export RUN", "dhox distill"},
        "onnxscript": {"dhox export RUN"},
        "timm": {"dhox distill"},
    }.items():
        broken = [Finding(part.what, not part.what.startswith(missing), "") for part in parts]
        assert {row.what for row in abilities(broken, ORIN) if not row.works} == lost, missing


def test_the_board_in_rows(root: Path) -> None:
    assert not board()[0].works
    recorded_board(root, "agx_thor_r38.2.0")
    rows = {row.what: row for row in board()}
    assert "AGX Thor" in rows["Jetson (bench --device jetson)"].found
    assert "L4T 38.2.0, JetPack 7.0" in rows["Jetson (bench --device jetson)"].found
    assert rows["power mode"].found == "MAXN (id 0)"
    assert not rows["clocks held (jetson_clocks)"].works
    assert disk().works


def test_doctor_restores_a_power_mode(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(root / "state"))
    monkeypatch.setenv(VARIABLE, str(root))
    board_with_modes(root, mode=0)
    state = {"schema": "dhox.power_mode/1", "pid": 1, "original": {"id": 3, "name": "MODE_50W"}, "started_at": "then"}  # fmt: skip
    write_file(root, "/state/dhox/power_mode.json", json.dumps(state))
    for said in ("The power mode is MODE_50W (3) again.", "No sweep left a power mode to restore."):
        with pytest.raises(SystemExit) as end:
            main(["doctor", "--restore-power-mode"])
        assert end.value.code == 0
        assert said in capsys.readouterr().out
    assert (root / "mode").read_text() == "3\n"


@pytest.mark.parametrize("target", [target for one in BOARDS for target in targets_of(one)])
def test_every_target_is_described(target: str) -> None:
    facts = describe_target(target)
    assert facts["target"] == target
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["supported"] == (facts["tensorrt"].split(".")[0] == "10")
    assert facts["supported"] or "dhox needs TensorRT 10.3" in facts["advice"] or "no JetPack for" in facts["advice"]
    assert facts["dla"] == any("--dla" in command for command in facts["export"]) or not facts["supported"]


def test_what_is_known_of_some_targets() -> None:
    nano, orin = describe_target("orin-nano@jp6.2"), describe_target("AGX-Orin@jetpack6.2.1")
    assert (nano["tensorrt"], nano["python"], nano["cuda"], nano["dla"]) == ("10.3.0", "3.10", "12.6", False)
    assert orin["dla"]
    assert "10.12" in nano["strong_typing"]
    assert nano["precisions"] == ["fp32", "fp16", "bf16", "int8"]
    newer = describe_target("agx-orin@7.2")
    assert not newer["dla"]
    assert "11.4.1" in newer["dla_note"]
    assert "11.4.1" in newer["tensorrt_route"]
    assert describe_target("nano@jp4.6.1")["precisions"] == ["fp32", "fp16"]
    assert any("Orin NX" in point for point in describe_target("orin-nx@jp7.2")["unverified"])
    assert not describe_target("orin-nx@jp5.1.2")["supported"]


@pytest.mark.parametrize(
    ("target", "opset"),
    [
        ("nano@jp4.6", "opset 13"), ("nano@jp4.6.1", "opset 13"), ("agx-xavier@jp5.0.2", "not known"),
        ("orin-nx@jp5.1.2", "opset 17"), ("orin-nano@jp6.2", "opset 20"), ("thor@jp7.2", "opset 24"),
    ],
)  # fmt: skip
def test_the_newest_opset_of_each_tensorrt(target: str, opset: str) -> None:
    found = describe_target(target)
    assert found["onnx"].startswith(f"{opset} ")
    assert any("newest opset" in point for point in found["unverified"]) == (opset in {"not known", "opset 20"})


def test_targets_are_jetpacks_that_run_on_the_board() -> None:
    assert all(targets_of(one) for one in BOARDS)
    assert {target.split("jp")[1] for one in BOARDS for target in targets_of(one)} == {one.version for one in JETPACKS}
    assert "orin-nano@jp7.1" not in targets_of(BOARDS[3])
    assert [one.name for one in BOARDS if f"{one.name}@jp7.1" in targets_of(one)] == ["thor"]


@pytest.mark.parametrize(
    ("target", "facts", "known"),
    [
        ("orin@jp6", ["'orin'"], "nano@jp4.6"),
        ("", ["''"], "nano@jp4.6"),
        ("orin-nano", ["JetPack"], "orin-nano@jp5.1.1"),
        ("thor@jp6.2", ["JetPack", "'jp6.2'", "thor"], "thor@jp7.0"),
        ("orin-nano@jp6.2.9", ["JetPack", "'jp6.2.9'", "orin-nano"], "orin-nano@jp5.1.1"),
        ("orin-nano@x", ["JetPack", "'x'", "orin-nano"], "orin-nano@jp5.1.1"),
    ],
)
def test_unknown_targets_list_the_known_ones(target: str, facts: list, known: str) -> None:
    with refuses(f"--target {target}", *facts, at="doctor.targets.parse_target", fix=known, kind=UsageError):
        parse_target(target)


def test_target_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--target", "orin-nano@jp6.2", "--json"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out) == describe_target("orin-nano@jp6.2")
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--target", "orin-nano@jp6.2", "--restore-power-mode"])
    assert end.value.code == 2


def test_tables_fit_a_hundred_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wide = Finding(
        "onnxruntime TensorrtExecutionProvider (bench --runner ort-tensorrt)", False, "words " * 40, "do " * 60
    )
    for width in (140, 100):
        monkeypatch.setattr(console, "width", width)
        show(doctor_page([wide]))
        show(target_page(describe_target("agx-orin@jp7.2.1")))
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) > 20
        assert max(map(len, lines)) <= 100
    assert isinstance(console, Console)
