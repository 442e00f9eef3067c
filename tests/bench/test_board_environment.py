"""The packages of a board's Python, made ready here."""

from __future__ import annotations

import dataclasses
import sys
import zipfile
from pathlib import Path
from typing import Any

import loopback
import msgspec
import pytest
from loopback import ORIN_PROBE
from refusals import refuses

from dhox.artefacts.remote import BoardPython, BoardRuntime
from dhox.bench.remote import board, board_environment
from dhox.bench.remote.board_environment import (
    add_packages,
    dhox_files,
    install,
    requirements,
    target_of,
    unmet,
    wheel_folder,
)
from dhox.bench.remote.bundle import Bundle
from dhox.bench.sweep.footprint import measure_footprint
from dhox.errors import DhoxError
from dhox.system.wheels import Target

ORIN = Target((3, 10), "aarch64", (2, 35))


def test_the_target_of_a_jetson() -> None:
    assert target_of("orin", ORIN_PROBE) == ORIN
    own = BoardRuntime(True, "1.18.0 CUDAExecutionProvider")
    assert target_of("orin", msgspec.structs.replace(ORIN_PROBE, onnxruntime=own)).own_onnxruntime == "1.18.0"


@pytest.mark.parametrize("odd", [{"system": "Darwin"}, {"machine": "riscv64"}, {"libc": ("", "")}])
def test_a_board_without_wheels_is_refused(odd: dict[str, Any]) -> None:
    with refuses("odd", "glibc", at="bench.remote.board_environment.target_of"):
        target_of("odd", msgspec.structs.replace(ORIN_PROBE, **odd))


def test_requirements_are_those_of_the_board_and_not_of_this_python() -> None:
    old, new = requirements(ORIN), requirements(dataclasses.replace(ORIN, python=(3, 12)))
    assert [text for text in old if text.startswith("tomli")]
    assert not [text for text in new if text.startswith("tomli")]
    assert [text for text in old if text.startswith("onnxruntime")]
    assert [text for text in old if text.startswith("msgspec")]
    own = requirements(dataclasses.replace(ORIN, own_onnxruntime="1.18.0"))
    assert not [text for text in own if text.startswith("onnxruntime")]
    assert "numpy<2" in own
    assert "numpy<2" not in requirements(dataclasses.replace(ORIN, own_onnxruntime="1.23.0"))
    assert not [text for text in old if text.startswith(("torch", "onnx>", "timm"))]


def package(folder: Path, name: str, *requires: str) -> None:
    info = folder / f"{name.replace('-', '_')}-1.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n" + "".join(f"Requires-Dist: {one}\n" for one in requires)
    (info / "METADATA").write_text(text)


def test_what_pip_left_out_for_another_python_is_found(tmp_path: Path) -> None:
    package(tmp_path, "A.b", "typing_extensions>=4; python_version < '3.11'", "colour; extra == 'x'", "C-d")
    package(tmp_path, "c_d", "winlib; sys_platform == 'win32'")
    assert unmet(tmp_path, ORIN) == ["typing_extensions>=4"]
    assert unmet(tmp_path, dataclasses.replace(ORIN, python=(3, 12))) == []
    package(tmp_path, "typing-extensions")
    assert unmet(tmp_path, ORIN) == []


@pytest.mark.parametrize("target", [ORIN, dataclasses.replace(ORIN, python=(3, 12)), dataclasses.replace(ORIN, machine="x86_64")])  # fmt: skip
def test_compiled_packages_are_those_of_the_board(target: Target, tmp_path: Path) -> None:
    try:
        install(
            "orin", [text for text in requirements(target) if text.startswith("msgspec")], target, tmp_path, tmp_path
        )
    except DhoxError:
        pytest.skip(loopback.NO_INDEX)
    (library,) = (tmp_path / "msgspec").glob("*.so")
    assert library.name == f"_core.cpython-{target.python[0]}{target.python[1]}-{target.machine}-linux-gnu.so"


def test_packages_that_pip_cannot_fetch_come_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = ("python3 -m pip install", "manylinux_2_35_aarch64")
    with refuses("orin", "ERROR", at="bench.remote.board_environment.install", fix=asked) as caught:
        wheel_folder("orin", ORIN)
    assert "cp310-" in caught.value.fix
    assert list((tmp_path / "dhox/boards").iterdir()) == []


def test_packages_that_never_become_complete_are_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "first-1-py3-none-any.whl", "w") as wheel:
        for name, text in (
            ("METADATA", "Metadata-Version: 2.1\nName: first\nVersion: 1\nRequires-Dist: second; python_version < '3.11'\n"),
            ("WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("RECORD", ""),
        ):  # fmt: skip
            wheel.writestr(f"first-1.dist-info/{name}", text)
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(folder)), ("XDG_CACHE_HOME", str(tmp_path))):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(board_environment, "requirements", lambda target: ["first"])
    monkeypatch.setattr(board_environment, "ROUNDS", 1)
    with refuses("orin", "second", "cp310-glibc2.35-aarch64", at="bench.remote.board_environment.wheel_folder"):
        wheel_folder("orin", ORIN)
    assert list((tmp_path / "dhox/boards").iterdir()) == []


def test_no_module_of_the_working_folder_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pip", "json", "dhox"):
        Path(f"{name}.py").write_text("from pathlib import Path; Path(__file__).with_suffix('.ran').touch()")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with refuses("orin", "ERROR", at="bench.remote.board_environment.install"):
        wheel_folder("orin", ORIN)
    with refuses(
        "none", "exist", at="bench.sweep.footprint.measure_footprint"
    ):  # the child's own words: it is our footprint that ran
        measure_footprint(Path("none"), "fp32", "onnxruntime", "cpu", 1)
    assert list(tmp_path.glob("*.ran")) == []


def test_the_files_of_dhox_for_a_board_are_its_modules_without_the_demo() -> None:
    names = dhox_files().keys()
    assert {
        "dhox/cli/main.py",
        "dhox/bench/run.py",
        "dhox/export/engines/engine.py",
        "dhox/reports/page.html.j2",
    } <= names
    assert not [name for name in names if "demo" in name or "__pycache__" in name]


def test_what_was_prepared_is_remembered_for_one_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path / "store"))
    monkeypatch.setattr(board_environment, "wheel_folder", lambda host, target: tmp_path / "wheels")
    package(tmp_path / "wheels", "colour")
    assert board.remembered() == []
    here = msgspec.structs.replace(ORIN_PROBE, python=BoardPython(version=sys.version_info[:3], path=sys.executable))
    packages = add_packages(Bundle(tmp_path / "store"), "orin", here)
    assert board.remembered() == packages
    (kept,) = (tmp_path / "store").glob("environment-*")
    for damage in ("", "{", "{}", "\0" * 8):
        kept.write_text(damage)
        assert board.remembered() == []
