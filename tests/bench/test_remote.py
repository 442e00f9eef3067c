"""dhox bench --host against a real sshd on this machine, with a second Python that has no torch."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import loopback
import msgspec
import pytest
from loopback import NASTY, QUICK, call, dhox_command, held, wait_until
from refusals import named

from dhox.artefacts.bench import Bench
from dhox.artefacts.record import read_record, record_bytes
from dhox.bench.remote.link import Board
from dhox.export.model_card import CARD_FILE

pytestmark = pytest.mark.sshd

LONG = ("--device", "cpu", "--duration", "100", "--batch", "1", "--scope", "e2e")


def running(board: loopback.Loopback) -> list[str]:
    """The command lines of everything that an ssh session started on the board and that still runs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(board.store).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def begin(board: loopback.Loopback, *words: object) -> subprocess.Popen[str]:
    """A long bench, once it takes times there."""
    process = subprocess.Popen(dhox_command(*words, *LONG), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    next(line for line in process.stdout if "fp16" in line and "not timed" in line)
    time.sleep(0.5)
    assert any("dhox.cli.on_board" in command for command in running(board))
    return process


def test_a_bench_over_ssh_is_the_bench_of_the_board(
    first: dict[str, Any], board: loopback.Loopback, python: str
) -> None:
    bench = read_record(first["bench"] / "bench.json", Bench)
    assert bench.status == "complete"
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert bench.environment["python"] == version
    assert bench.environment.keys() >= {"dhox", "onnxruntime"}
    assert "torch" not in bench.environment
    assert {row.scope for row in bench.latency} == {"e2e"}
    # Every path is this machine's.
    assert [model.export and model.export.path for model in bench.models] == [str(first["export"])] * 2
    assert bench.accuracy.data == str(first["root"] / "line/data")
    assert bench.remote is not None
    assert str(board.store).encode() not in record_bytes(msgspec.structs.replace(bench, remote=None))
    # Names survive whatever they are, and the ledger finds its images again.
    predictions = (first["bench"] / "predictions.csv").read_text()
    assert all(f"test/bag/{name}".replace('"', '""') in predictions for name in NASTY)
    assert {row.agreement for row in bench.ledgers[0].rows} == {1.0}
    assert bench.passed
    assert (first["bench"] / "report.html").is_file()
    assert running(board) == []
    assert list((board.store / "runs").iterdir()) == []


def times(board: loopback.Loopback) -> dict[Path, int]:
    """When each file of the store was written."""
    files = (path for path in (board.store / "trees").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_a_second_bench_copies_nothing(
    first: dict[str, Any], board: loopback.Loopback, environment: dict[str, str]
) -> None:
    before = times(board)
    done = call(
        "bench", first["export"], *first["words"], *QUICK, "--data", first["root"] / "line/data", "--out", "again"
    )
    assert "Copied 0 files" in done.stdout, done.stdout + done.stderr
    assert times(board) == before


@pytest.mark.slow
def test_models_that_share_images_are_measured_in_one_call_from_a_damaged_store(
    first: dict[str, Any], board: loopback.Loopback, environment: dict[str, str]
) -> None:
    shutil.copytree(first["export"], "copied/tiny/export")
    # Two files in the store are damaged: one is shorter, one holds zeros (as after a power cut).
    (model,) = (board.store / "trees").glob("*/tiny/export/model.onnx")
    os.truncate(model, 0)
    (module,) = (board.store / "trees").glob("*/dhox/bench/run.py")
    module.write_bytes(bytes(module.stat().st_size))
    done = call(
        "bench", first["export"] / "model.onnx", "copied/tiny/export", "--precision=fp32", *first["words"], *QUICK, "--data",
        first["root"] / "line/data", "--out", "several",
    )  # fmt: skip
    # A place of its own, without the model card, which no board needs; the images are shared.
    new = len({*Path("copied/tiny/export").glob("*.*")} - {Path("copied/tiny/export", CARD_FILE)})
    assert f"Copied {2 + new} files" in done.stdout, done.stdout + done.stderr
    paths = [model.path for model in read_record(Path("several/bench.json"), Bench).models]
    assert paths == [str(first["export"] / "model.onnx"), str(Path("copied/tiny/export/model.onnx").absolute())]


@pytest.mark.slow
def test_doctor_before_and_after_a_board_was_prepared(
    first: dict[str, Any], environment: dict[str, str], python: str
) -> None:
    before = json.loads(first["doctor"].stdout)
    assert before["findings"] is None
    assert "not prepared yet" in before["note"]
    assert before["probe"]["python"]["path"] == python
    after = json.loads(call("doctor", *first["words"], "--json").stdout)
    works = {row["what"]: row["works"] for row in after["findings"]}
    assert next(found for what, found in works.items() if "CPUExecutionProvider" in what)
    assert not next(found for what, found in works.items() if what.startswith("torch "))
    assert "No sweep left a power mode" in call("doctor", *first["words"], "--restore-power-mode").stdout
    text = call("doctor", *first["words"]).stdout
    assert "C library" in text
    assert "CPUExecutionProvider" in text


def test_an_error_of_the_board_is_one_message_with_its_exit_code(
    first: dict[str, Any], environment: dict[str, str]
) -> None:
    done = call("bench", first["export"], *first["words"], "--device", "jetson", "--out", "x")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert named("--device jetson", done.stderr)
    assert not Path("x").exists()


def test_ctrl_c_ends_the_bench_there_in_order(
    first: dict[str, Any], board: loopback.Loopback, environment: dict[str, str]
) -> None:
    process = begin(
        board, "bench", first["export"], *first["words"], "--data", first["root"] / "line/data", "--out", "stopped"
    )
    assert json.loads(call("doctor", *first["words"], "--json").stdout)["findings"]  # it does not wait
    assert len(list((board.store / "runs").iterdir())) == 1
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 130
    assert running(board) == []
    bench = read_record(Path("stopped/bench.json"), Bench)
    assert bench.status == "interrupted"
    assert bench.accuracy.rows


@pytest.mark.slow
def test_a_bench_that_is_killed_there_is_told_from_an_interrupted_one(
    first: dict[str, Any], board: loopback.Loopback, environment: dict[str, str]
) -> None:
    process = begin(board, "bench", first["export"], *first["words"], "--data", first["root"] / "line/data")
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                str(board.store) in (path / "environ").read_text()
                and "-m\0dhox.cli.on_board" in (path / "cmdline").read_text()
            ):
                os.kill(int(path.name), signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert all(named(fact, said) for fact in ("board", "SIGKILL", "dmesg"))


@pytest.mark.slow
def test_ctrl_c_while_another_bench_measures_says_so(
    first: dict[str, Any], board: loopback.Loopback, environment: dict[str, str]
) -> None:
    with socket.socket(socket.AF_UNIX) as holder:
        wait_until(lambda: held(holder, board), 300)
        process = subprocess.Popen(
            dhox_command("bench", first["export"], *first["words"], *LONG, "--data", first["root"] / "line/data"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        next(line for line in process.stdout if "waiting for its end" in line)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert (said.count("\n"), named("board", said)) == (1, True)
    assert running(board) == []


@pytest.mark.slow
def test_a_killed_dhox_leaves_nothing_there(
    first: dict[str, Any], board: loopback.Loopback, environment: dict[str, str]
) -> None:
    process = begin(board, "bench", first["export"], *first["words"], "--data", first["root"] / "line/data")
    process.kill()
    process.communicate()
    wait_until(lambda: running(board) == [])


@pytest.mark.slow
def test_a_cut_connection_leaves_nothing_there_and_a_rerun_goes_on(
    first: dict[str, Any], board: loopback.Loopback, environment: dict[str, str]
) -> None:
    words = ("bench", first["export"], *first["words"], "--data", first["root"] / "line/data", "--out", "cut")
    process = begin(board, *words)
    children = Path(f"/proc/{board.process.pid}/task/{board.process.pid}/children").read_text().split()
    assert children
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert (said.count("\n"), named("board", said)) == (1, True)
    wait_until(lambda: running(board) == [])
    assert not Path("cut").exists()
    (left,) = re.findall(r"`scp -r 'board:(.*)' \.`", said)
    assert read_record(Path(left, "bench/bench.json"), Bench).status == "interrupted"
    # Results that could not be written here stay there too, and what can be seen before is not measured.
    Path("a file").touch()
    refused = call(*words[:-1], "a file/out", *QUICK)
    assert (refused.returncode, named("a file", refused.stderr)) == (1, True)
    assert "batch 1" not in refused.stdout
    again = call(*words, *QUICK)
    assert again.returncode == 0, again.stderr
    assert "Copied 0 files" in again.stdout


def test_one_bench_at_a_time(
    board: loopback.Loopback, environment: dict[str, str], python: str, tmp_path: Path
) -> None:
    first, second = list[str](), list[str]()
    begun, go = threading.Event(), tmp_path / "go"
    until_told = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\nprint(time.time())"

    def show_first(line: str) -> None:
        first.append(line)
        begun.set()

    def show_second(line: str) -> None:
        second.append(line)
        if "waiting" in line:
            go.touch()

    with Board("board", python) as one, Board("board", python) as two:
        words = [python, "-c", f"print('begun', flush=True)\n{until_told}"]
        thread = threading.Thread(target=one.run, args=(words, {}, "first", show_first))
        thread.start()
        try:
            assert begun.wait(300)
            two.run([python, "-c", "import time; print(time.time())"], {}, "second", show_second)
        finally:
            go.touch()
            thread.join()
    assert second[0] == "Another dhox bench measures on this board: waiting for its end (Ctrl-C gives up)."
    assert float(first[1]) < float(second[1])
