from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from quick_distill import quick
from refusals import refuses

from dhox.system.compiler import missing_for_compile


@pytest.fixture
def headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of headers, and no compiler on the path."""
    (tmp_path / "Python.h").write_text("")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


@pytest.mark.parametrize(("device", "program", "variable"), [("cuda", "clang", "CC"), ("cpu", "g++", "CXX")])
def test_a_compiler_and_headers_are_needed(
    headers: Path, monkeypatch: pytest.MonkeyPatch, device: str, program: str, variable: str
) -> None:
    assert program in str(missing_for_compile(device))
    (headers / "bin").mkdir()
    (headers / "bin" / program).write_text("#!/bin/sh\n")
    (headers / "bin" / program).chmod(0o755)
    assert missing_for_compile(device) is None
    (headers / "Python.h").unlink()
    assert "Python.h" in str(missing_for_compile(device))
    (headers / "Python.h").write_text("")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(variable, "/opt/compiler")
    assert missing_for_compile(device) is None


def test_compile_without_a_compiler_is_refused_before_anything_is_read(line: Path, headers: Path) -> None:
    with refuses("--compile", "g++", at="distill.run.compiles", fix="apt install"):
        quick(line / "data", shots=4, compiled=True, device="cpu")


def test_on_cuda_a_training_goes_on_without_a_compiler_and_says_so(
    headers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dhox.distill.options import DistillOptions
    from dhox.distill.run import compiles

    assert not compiles(DistillOptions(), "cuda")
    assert "gcc" in capsys.readouterr().out.replace("\n", " ")
