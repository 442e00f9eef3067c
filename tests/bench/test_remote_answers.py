"""What a board answers and brings home, and the options of --host: parts that need no connection."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bench_example import example
from hypothesis import given
from hypothesis import strategies as st
from loopback import ORIN_PROBE
from refusals import refuses

from dhox.artefacts.files import BENCH_FILE, BENCH_SCHEMA
from dhox.artefacts.remote import BoardRuntime, Probe, Remote
from dhox.bench.options import BenchOptions
from dhox.bench.remote.answers import Said, read_answer
from dhox.bench.remote.results import benches_of, read_content, replace_texts, said_to_remain
from dhox.bench.remote.run import Output, describe, request
from dhox.cli.main import main
from dhox.cli.on_board import Asked
from dhox.doctor.backends import Finding
from dhox.errors import ERROR_LINE, DhoxError, GateFailedError, StoppedError, UsageError, error_line
from dhox.options.declare import build, replaced
from dhox.reports.pages.machine import board_page


@pytest.mark.parametrize("kind", [DhoxError, UsageError, GateFailedError, StoppedError])
def test_errors_keep_their_kind(kind: type[DhoxError], capsys: pytest.CaptureFixture[str]) -> None:
    said = Output()
    for line in ("batch 1", "", error_line(kind("No \u00fc room.", "Make some."))):
        said(line)
    found = said.failure("orin", kind.exit_code)
    assert type(found) is kind
    assert (found.reason, found.fix) == ("On orin: No \u00fc room.", "Make some.")
    assert capsys.readouterr().out == "batch 1\n\n"


def test_what_ends_without_an_error_says_its_last_line_or_signal() -> None:
    said = Output()
    assert "status 1" in said.failure("orin", 1).reason
    said("last words")
    said(" ")
    assert "last words" in said.failure("orin", 1).reason
    assert "SIGKILL" in said.failure("orin", -9).reason
    assert "dmesg" in said.failure("orin", -9).fix


def results(folder: Path, **files: str) -> Path:
    """A folder as it comes from a board: bench.json by its folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for place, text in files.items():
        (folder / place).mkdir(parents=True)
        (folder / place / BENCH_FILE).write_text(text)
    return folder


def test_benches_are_found_by_power_mode_finished_or_not(tmp_path: Path) -> None:
    def found(**files: str) -> dict[str, str]:
        return {
            mode: path.relative_to(tmp_path).as_posix() for mode, path in benches_of(results(tmp_path, **files)).items()
        }

    assert found(bench="{}") == {"": "bench"}
    assert found(**{"bench.partial": "{}"}) == {"": "bench.partial"}
    modes = {"bench/0-15W": "{}", "bench/1-30W EMC.partial": "{}"}
    assert found(**modes) == {"0-15W": "bench/0-15W", "1-30W EMC": "bench/1-30W EMC.partial"}
    odd = ("elsewhere", "bench/x", "bench/0-x/y", "bench/0-\x1b[31m", "bench/0-" + "x" * 200)
    assert found(**dict.fromkeys(odd, "{}")) == {}


REMOTE = Remote(host="orin", python="python3", probe=ORIN_PROBE, paths={"/here/run": "/exports/run"})


def test_a_bench_of_a_board_has_the_paths_of_this_machine(tmp_path: Path) -> None:
    written = example(tmp_path, "jetson")
    path = tmp_path / BENCH_FILE
    path.write_bytes(path.read_bytes().replace(b'"complete"', b'"running"'))
    found = read_content(path, REMOTE)
    assert found is not None
    assert (found.status, found.remote) == ("interrupted", REMOTE)
    assert found.models[0].export is not None
    assert found.models[0].export.path == "/here/run"
    assert found.latency == written.latency
    path.write_text(json.dumps({"schema": BENCH_SCHEMA, "status": "running"}))
    assert read_content(path, REMOTE) is None


@pytest.mark.parametrize(
    "damage",
    [
        (b"{", b"["), (BENCH_SCHEMA.encode(), b"dhox.bench/1"), (b'"latency":', b'"l":'), (b'"golden": [', b'"golden": [1, '),
        (b'"mean_w":', b'"mean_w": NaN, "x":'), (b'"finished_at": "', b'"finished_at": "x", "y": 1e999, "z": "'),
        (b'"finished_at": "', b'"finished_at": "x", "y": ' + b"[" * 5000 + b', "z": "'),
    ],
)  # fmt: skip
def test_a_bench_that_dhox_did_not_write_is_one_message(damage: tuple[bytes, bytes], tmp_path: Path) -> None:
    example(tmp_path, "jetson")
    path = tmp_path / BENCH_FILE
    text = path.read_bytes()
    path.write_bytes(text.replace(*damage, 1))
    assert path.read_bytes() != text
    with refuses("bench.json", at="bench.remote.results.read_content"):
        read_content(path, REMOTE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cc", "Cs"])), inner),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
def test_sound_answers_are_read_as_they_are(value: Any) -> None:
    assert read_answer(json.dumps(value).encode(), Any) == value


@given(JSON, st.sampled_from([Said, Probe, list[Finding]]))
def test_no_answer_breaks_its_reader(value: Any, kind: Any) -> None:
    with contextlib.suppress(ValueError):
        read_answer(json.dumps([value]).encode(), kind)


@pytest.mark.parametrize(
    "text", [b'{"status": true}', b'{"status": "abc"}', b'{"status": 1e999}', b"{", b"\xff", b"[]"]
)
def test_what_does_not_fit_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        read_answer(text, Said)


def test_texts_of_a_board_command_no_terminal() -> None:
    assert read_answer(b'{"out": "\\u001b[2J"}', Said).out == "\ufffd[2J"


def test_paths_are_replaced_wherever_they_stand() -> None:
    content = {"a": ["/there/x/model.onnx failed", 1, None], "b": {"c": "/there/x"}}
    assert replace_texts(content, {"/there/x": "/here"}) == {
        "a": ["/here/model.onnx failed", 1, None],
        "b": {"c": "/here"},
    }


def test_options_arrive_as_they_are() -> None:
    options = build(
        BenchOptions, runner=["onnxruntime:graph", "-x y"], trust_engine=True, host="orin", out="/elsewhere",
        data="/here/data", batch="2,4",
    )  # fmt: skip
    there = {"/here/export": "/there/export", "/here/data": "/there/data.csv"}
    asked = msgspec.json.decode(request([Path("/here/export")], options, there, "/here/data", True), type=Asked)
    assert (asked.models, asked.engines) == (["/there/export"], True)
    arrived = build(BenchOptions, **asked.options)
    assert arrived == replaced(options, host=None, out=Path("bench"), data=Path("/there/data.csv"))


def test_doctor_looks_at_one_thing() -> None:
    with refuses("--host", at="cli.main.doctor", fix="--target", kind=UsageError):
        main(["doctor", "--host", "orin", "--target", "orin-nano@jp6.2"])


@pytest.mark.parametrize(
    ("words", "at", "facts", "fix"),
    [
        (["bench", "x", "--host", "orin", "--runner", "torch:graph"], "bench.remote", ["--host"], ()),
        (["bench", "--remote-python", "python3.11"], "bench.options", ["--remote-python"], "--host"),
        (["doctor", "--remote-python", "python3"], "bench.options", ["--remote-python"], "--host"),
        (["doctor", "--restore-power-mode", "--json"], "cli.main.doctor", ["--restore-power-mode"], "--json"),
        (
            ["doctor", "--host", "orin", "--restore-power-mode", "--json"],
            "cli.main",
            ["--restore-power-mode"],
            "--json",
        ),
    ],
)
def test_options_that_would_be_ignored_are_refused(words: list[str], at: str, facts: list, fix: str) -> None:
    with refuses(*facts, at=at, fix=fix, kind=UsageError):
        main(words)


@pytest.mark.parametrize(
    ("error", "said", "kind"),
    [
        (DhoxError("It is full.", ""), "It is full.", DhoxError),
        (OSError(28, "No space left on device"), "No space left on device", DhoxError),
        (KeyboardInterrupt(), "HOST", StoppedError),
    ],
)
@pytest.mark.parametrize(
    ("host", "place", "copy"),
    [("u@orin", "/a b/r", "`scp -r 'u@orin:/a b/r' .`"), ("ssh://orin:22", "/s/r", "`scp -r scp://orin:22//s/r .`")],
)
def test_every_error_says_where_results_remain(
    error: BaseException, said: str, kind: type[DhoxError], host: str, place: str, copy: str
) -> None:
    named = refuses(said.replace("HOST", host), at="bench.remote.results", fix=(place, copy), kind=kind)
    with named, said_to_remain(host, place):
        raise error


@pytest.mark.parametrize("release", ["", "# R36 (release), REVISION: 4.3\nmore"])
def test_a_board_is_shown_whatever_its_release_file_holds(release: str) -> None:
    probe = msgspec.structs.replace(
        ORIN_PROBE, onnxruntime=BoardRuntime(True, "1.18.0 CUDAExecutionProvider"),
        texts={"/etc/nv_tegra_release": release, "/proc/device-tree/model": ""},
    )  # fmt: skip
    assert (release.splitlines() or ["none"])[0] in json.dumps(
        msgspec.to_builtins(board_page(probe, None, "").sections)
    )
    assert describe(probe) == "orin, aarch64, Python 3.10.12, TensorRT 10.3.0, its own onnxruntime 1.18.0"


@pytest.mark.parametrize("needed", [True, False])
def test_engines_where_there_is_no_gpu_are_one_message(needed: bool) -> None:
    options = {"device": "tensorrt" if needed else "cpu", "out": "bench"}
    asked = msgspec.json.encode({"models": ["none"], "options": options, "engines": True})
    done = subprocess.run(
        [sys.executable, "-m", "dhox.cli.on_board", asked],
        capture_output=True, text=True, check=False, env=os.environ | {"DHOX_ERRORS": "json"},
    )  # fmt: skip
    assert done.returncode == 2  # there is no export `none`
    assert done.stderr.startswith(ERROR_LINE)
    assert done.stderr.count("\n") == 1
