"""The power-mode sweep, in real processes that are really stopped and killed; nvpmodel and sudo are small scripts."""

from __future__ import annotations

import fcntl
import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path

import pytest
from board import NVPMODEL, RECORDINGS, board_with_modes, write_command, write_file
from refusals import named, places, refuses

from dhox.artefacts.bench import Bench
from dhox.artefacts.files import BENCH_FILE
from dhox.artefacts.machine import SetPowerMode
from dhox.artefacts.record import read_record
from dhox.bench import power_modes
from dhox.bench.options import Output
from dhox.bench.power_modes import left_over, lock_file, power_mode_sweep, restore_left_over, state_file
from dhox.bench.remote import board
from dhox.bench.run import BenchResult
from dhox.cli.main import main
from dhox.cli.power_modes import bench_modes
from dhox.console import console
from dhox.doctor.examine import state
from dhox.errors import DhoxError
from dhox.system.commands import ask
from dhox.system.nvpmodel import PowerMode
from dhox.system.sysroot import VARIABLE

SWEEP = """
import sys, time
from dhox.bench.power_modes import power_mode_sweep
not_run = []
try:
    with power_mode_sweep(not_run) as (_, modes):
        for mode in modes:
            print(mode.name, flush=True)
            if mode.id == 0:
                time.sleep(float(sys.argv[1]))
except KeyboardInterrupt as stop:
    print("stopped by", stop, flush=True)
print(*not_run, sep="\\n", flush=True)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A board in mode 3 (MODE_50W) whose modes are those of an AGX Orin: 0 gates the same units, 1 and 2 others."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "board"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return board_with_modes(tmp_path / "board")


def mode_of(root: Path) -> int:
    return int((root / "mode").read_text())


def sweep_until_max() -> subprocess.Popen[str]:
    """A sweep that has set mode 0 and works in it."""
    process = subprocess.Popen([sys.executable, "-c", SWEEP, "60"], stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == ["MODE_50W", "MAXN"]
    return process


def test_every_mode_without_a_reboot_is_set_and_the_first_one_is_set_again(root: Path) -> None:
    not_run: list[str] = []
    with power_mode_sweep(not_run) as (planned, modes):
        assert [mode.id for mode in planned] == [3, 0]
        seen = [(mode.name, mode_of(root), state_file().exists()) for mode in modes]
    assert seen == [("MODE_50W", 3, True), ("MAXN", 0, True)]
    assert mode_of(root) == 3
    assert not state_file().exists()
    assert [line.split(":")[0] for line in not_run] == [
        "power mode MODE_15W (1) not run",
        "power mode MODE_30W (2) not run",
    ]
    assert all(named("MODE_50W", line) and named("reboot", line) for line in not_run)
    assert not {"1", "2"} & set((root / "asked").read_text().split())  # modes that need a reboot are not even tried


def test_a_mode_that_would_reboot_is_left_out_and_nobody_says_yes(root: Path) -> None:
    (root / "reboots_0").touch()
    not_run: list[str] = []
    with power_mode_sweep(not_run) as (_, modes):
        assert [mode.name for mode in modes] == ["MODE_50W"]
    assert named("MAXN (0)", not_run[-1])
    assert named("reboot", not_run[-1])
    assert not (root / "rebooted").exists()


def test_a_mode_that_does_not_stick_is_left_out(root: Path) -> None:
    (root / "ignores_0").touch()
    not_run: list[str] = []
    with power_mode_sweep(not_run) as (_, modes):
        assert [mode.name for mode in modes] == ["MODE_50W"]
    assert all(named(fact, not_run[-1]) for fact in ("MAXN (0)", "nvpmodel", "MODE_50W"))


def test_an_error_restores_the_mode(root: Path) -> None:
    def work() -> None:
        with power_mode_sweep([]) as (_, modes):
            for mode in modes:
                if mode.id == 0:
                    assert mode_of(root) == 0
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert mode_of(root) == 3
    assert not state_file().exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_restore_the_mode(root: Path, number: signal.Signals) -> None:
    process = sweep_until_max()
    assert mode_of(root) == 0
    process.send_signal(number)
    said, _ = process.communicate(timeout=300)
    assert (process.returncode, mode_of(root)) == (0, 3)
    assert f"stopped by {number.name}" in said
    assert not state_file().exists()


def test_a_kill_is_found_and_repaired(root: Path) -> None:
    process = sweep_until_max()
    running = left_over()
    assert running is not None
    assert (running.running, running.pid) == (True, process.pid)
    assert [finding.works for finding in state()] == [True]
    with refuses("--power-modes", process.pid, at="bench.power_modes._only_one"):
        power_mode_sweep([]).__enter__()
    with refuses("--power-modes", process.pid, at="bench.power_modes._only_one"):
        restore_left_over()
    process.kill()
    process.communicate()

    assert mode_of(root) == 0
    (finding,) = state()
    assert not finding.works
    assert "was killed" in finding.found
    assert "MODE_50W (id 3)" in finding.found
    assert finding.advice == "dhox doctor --restore-power-mode"
    with refuses("MODE_50W (3)", at="bench.power_modes._refuse_left_over", fix="dhox doctor --restore-power-mode"):
        power_mode_sweep([]).__enter__()
    assert restore_left_over() == PowerMode(3, "MODE_50W")
    assert mode_of(root) == 3
    assert state() == []
    assert restore_left_over() is None


@pytest.mark.parametrize(
    ("killed_after", "takes", "mode"),
    [(0.2, 30, 0), (board.GRACE_S[signal.SIGKILL], 0.5, 3)],
    ids=["too early", "as it is"],
)
def test_over_ssh_a_lost_link_leaves_time_to_restore(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: float, takes: float, mode: int
) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path / "store"))
    (root / "slow_3").write_text("0")
    grace = {int(signal.SIGINT): 0.0, int(signal.SIGTERM): 0.1, int(signal.SIGKILL): killed_after}
    code = f"from dhox.bench.remote import board; board.GRACE_S = {grace}; board.main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    arguments = {"command": [sys.executable, "-c", SWEEP, "60"], "environment": {}, "run": "r"}
    process.stdin.write(json.dumps({"action": "run", "arguments": arguments}).encode() + b"\n")
    process.stdin.flush()
    said = [json.loads(process.stdout.readline().removeprefix(board.MARK))["out"] for _ in range(2)]
    assert (said, mode_of(root)) == (["MODE_50W", "MAXN"], 0)
    (root / "slow_3").write_text(f"{takes}")
    process.communicate(timeout=300)
    assert (mode_of(root), state_file().exists()) == (mode, mode != 3)


def test_a_lost_link_leaves_more_time_than_restoring_may_take() -> None:
    question = inspect.signature(ask).parameters["seconds"].default
    assert board.GRACE_S[signal.SIGKILL] > power_modes.SECONDS + 2 * question


def test_a_restore_that_fails_keeps_the_state_file(root: Path) -> None:
    process = sweep_until_max()
    process.kill()
    process.communicate()
    (root / "reboots_3").touch()
    with refuses("MODE_50W (3)", at="bench.power_modes.restore", fix="sudo nvpmodel -m 3"):
        restore_left_over()
    assert left_over() is not None
    (root / "mode").write_text("3\n")  # as after the reboot
    assert restore_left_over() == PowerMode(3, "MODE_50W")


def test_of_two_sweeps_at_once_one_runs(root: Path, tmp_path: Path) -> None:
    until_told = "while not os.path.exists(sys.argv[1]): time.sleep(0.02)"
    code = f"import os\n{SWEEP}".replace("time.sleep(float(sys.argv[1]))", until_told)
    command = [sys.executable, "-c", code, str(tmp_path / "go")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    end = time.monotonic() + 300
    while all(one.poll() is None for one in both) and time.monotonic() < end:
        time.sleep(0.02)
    (tmp_path / "go").touch()
    said = [one.communicate(timeout=300) for one in both]
    assert sorted(one.returncode for one in both) == [0, 1], said
    assert "DhoxError: Another --power-modes" in "".join(err for _, err in said)
    assert (root / "asked").read_text().split() == ["3", "0", "3"]  # what it may set, mode 0, and back
    assert mode_of(root) == 3


def test_a_sweep_that_has_not_begun_to_set_modes_refuses_others_too(root: Path) -> None:
    lock_file().parent.mkdir(parents=True)
    with lock_file().open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with refuses("--power-modes", at="bench.power_modes._only_one"):
            power_mode_sweep([]).__enter__()
    with power_mode_sweep([]):
        pass


def test_a_sweep_changes_no_mode_while_another_bench_measures(root: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as holder:
        assert board.take(holder)
        process = subprocess.Popen([sys.executable, "-c", SWEEP, "0"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert "waiting for its end" in process.stdout.readline()
        time.sleep(0.5)
        assert not (root / "asked").exists()
    said, _ = process.communicate(timeout=300)
    assert said.split()[:2] == ["MODE_50W", "MAXN"]


def test_a_state_folder_that_is_none_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with refuses("power_mode.lock", "Not a directory", at="bench.power_modes._only_one", fix="XDG_STATE_HOME"):
        power_mode_sweep([]).__enter__()


def test_a_damaged_state_file_is_said_and_stops_a_sweep(root: Path) -> None:
    state_file().parent.mkdir(parents=True)
    state_file().write_text("{")
    assert [finding.found for finding in state()] == ["its state file is damaged"]
    with refuses("power_mode.json", "JSON", at="bench.power_modes.left_over", fix="sudo nvpmodel -m ID"):
        power_mode_sweep([]).__enter__()
    state_file().write_text(json.dumps({"schema": "dhox.power_mode/1", "pid": "none"}))
    with refuses("power_mode.json", "pid", at="bench.power_modes.left_over", fix="sudo nvpmodel -m ID"):
        left_over()


def test_sudo_that_asks_names_the_line_to_add(root: Path) -> None:
    (root / "password").touch()
    with refuses("sudo -n nvpmodel", at="bench.power_modes._check_sudo", fix=("visudo", "NOPASSWD:")) as caught:
        power_mode_sweep([]).__enter__()
    assert not state_file().exists()
    # In sudoers a wildcard matches spaces, as fnmatch(3) does without flags.
    allowed = [one.split("/nvpmodel ")[1] for one in str(caught.value).rpartition("NOPASSWD: ")[2].split(", ")]
    assert all(any(fnmatch(f"-m {number}", one) for one in allowed) for number in range(100))
    for more in ("-m 0 -f /tmp/mine.conf", "-m 0 -f x", "-m /tmp/x", "-m", "-f /tmp/x -m 0"):
        assert not any(fnmatch(more, one) for one in allowed)


def test_what_a_sweep_needs(root: Path) -> None:
    for name in ("cur_freq", "min_freq", "max_freq"):
        write_file(root, f"/sys/class/devfreq/17000000.gpu/{name}", "1300500000\n")
    for name in ("min", "max"):
        write_file(root, f"/sys/devices/system/cpu/cpu0/cpufreq/scaling_{name}_freq", "2201600\n")
    with refuses("--power-modes", "jetson_clocks", at="bench.power_modes._mode_to_restore"):
        power_mode_sweep([]).__enter__()
    write_file(root, "/sys/class/devfreq/17000000.gpu/min_freq", "306000000\n")
    write_command(
        root,
        "nvpmodel",
        f"#!/bin/sh\n[ $1 = -p ] && exec cat '{RECORDINGS / 'nvpmodel/agx_orin_p'}'\necho NVPM ERROR: no\n",
    )
    with refuses("--power-modes", "NVPM ERROR: no", at="bench.power_modes._mode_to_restore"):
        power_mode_sweep([]).__enter__()
    (root / "proc/device-tree/compatible").unlink()
    with refuses("--power-modes", "Jetson", at="bench.power_modes.power_mode_sweep"):
        power_mode_sweep([]).__enter__()


QUICK = ["--device", "cpu", "--batch", "1", "--scope", "e2e", "--duration", "0.05", "--energy", "0", "--precision", "fp32"]  # fmt: skip


def exit_code(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as end:
        main(["bench", *words])
    return end.value.code


def test_bench_writes_one_directory_per_mode(
    root: Path, line: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(line / "runs/tiny/export"), *QUICK, "--power-modes"]
    assert exit_code(*words) == 2
    assert "--power-modes --out DIR" in capsys.readouterr().err
    monkeypatch.setattr(console, "width", 100)
    assert exit_code(*words, "--out", "modes") == 0
    said = capsys.readouterr().out
    benches = {path.name: read_record(path / BENCH_FILE, Bench) for path in Path("modes").iterdir()}
    modes = {name: bench.device.jetson and bench.device.jetson.power_mode for name, bench in benches.items()}
    assert modes == {"3-MODE_50W": SetPowerMode(3, "MODE_50W"), "0-MAXN": SetPowerMode(0, "MAXN")}
    assert mode_of(root) == 3
    assert "Power mode MODE_15W (1) not run" in said
    assert max(map(len, said[said.index("Power modes, measured") :].splitlines()[:9])) <= 100


def test_a_folder_in_the_way_is_found_before_anything_is_measured(root: Path, line: Path, tmp_path: Path) -> None:
    (tmp_path / "modes/0-MAXN/mine").mkdir(parents=True)
    words = [str(line / "runs/tiny/export"), *QUICK, "--power-modes", "--out", str(tmp_path / "modes")]
    with refuses("modes/0-MAXN", BENCH_FILE, at="artefacts.files.check_output", fix="--out"):
        main(["bench", *words])
    assert [path.name for path in (tmp_path / "modes").iterdir()] == ["0-MAXN"]
    assert (root / "asked").read_text().split() == ["3"]  # no other mode was set
    assert not state_file().exists()


def test_a_mode_that_fails_leaves_the_report_of_the_others(
    root: Path, line: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modes = tmp_path / "modes"
    write_command(root, "nvpmodel", NVPMODEL.replace("-m)", f"-m) [ $2 = 0 ] && mkdir -p '{modes}/0-MAXN/mine';"))
    assert exit_code(str(line / "runs/tiny/export"), *QUICK, "--power-modes", "--out", str(modes)) == 1
    said = capsys.readouterr()
    assert (said.err.startswith("Error: "), named(1, said.err)) == (True, True)
    assert named("MAXN (0) failed", said.out)
    assert "Power modes, measured one after the other" in said.out
    assert read_record(modes / "3-MODE_50W" / BENCH_FILE, Bench).status == "complete"
    assert (modes / "3-MODE_50W/report.html").exists()
    assert mode_of(root) == 3


def result(line: Path, place: Path) -> BenchResult:
    return BenchResult(place, read_record(line / "runs/tiny/bench/here" / BENCH_FILE, Bench))


def test_the_other_modes_are_measured_after_one_that_fails(root: Path, line: Path, tmp_path: Path) -> None:
    def run(place: Path) -> BenchResult:
        if place.name == "3-MODE_50W":
            raise DhoxError("The sensor is gone.", "Plug it in.")
        return result(line, place)

    results, ended = bench_modes(run, Output(out=tmp_path / "modes"))
    assert [one.directory.name for one in results] == ["0-MAXN"]
    assert re.match(
        r"1 of the power modes failed .The sensor is gone.*--overwrite, or with another --out.$", str(ended)
    )
    assert mode_of(root) == 3


def test_where_every_mode_fails_the_first_reason_is_the_error(root: Path, tmp_path: Path) -> None:
    def run(place: Path) -> BenchResult:
        raise DhoxError(f"No {place.name}.", "")

    with pytest.raises(DhoxError, match="No 3-MODE_50W"):
        bench_modes(run, Output(out=tmp_path / "modes"))
    assert (root / "asked").read_text().split() == ["3", "0", "3"]  # the second was tried


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_signal_keeps_what_was_measured(root: Path, line: Path, tmp_path: Path, swallowed: bool) -> None:
    def run(place: Path) -> BenchResult:
        if place.name == "0-MAXN":
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                if swallowed:
                    raise DhoxError("A library could not be imported.", "") from None
                raise
        return result(line, place)

    results, ended = bench_modes(run, Output(out=tmp_path / "modes"))
    assert [one.directory.name for one in results] == ["3-MODE_50W"]
    assert isinstance(ended, DhoxError)
    assert ended.exit_code == 130
    assert "again with --overwrite, or with another --out." in str(ended)
    assert mode_of(root) == 3


def test_a_mode_that_cannot_be_set_back_is_the_error_and_the_benches_stay(
    root: Path, line: Path, tmp_path: Path
) -> None:
    def run(place: Path) -> BenchResult:
        if place.name == "0-MAXN":
            (root / "ignores_3").touch()
        return result(line, place)

    results, ended = bench_modes(run, Output(out=tmp_path / "modes"))
    assert len(results) == 2
    assert ended is not None
    assert "bench.power_modes.restore" in places(ended)
    assert named("MODE_50W (3)", str(ended))
    assert left_over() is not None
