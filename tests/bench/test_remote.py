"""dhox bench --host against a real sshd on this machine, with a second Python that has no torch."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import loopback
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dhox.bench
from dhox.artefacts.files import BENCH_SCHEMA, read_json
from dhox.artefacts.remote import Remote
from dhox.bench.remote import link as board_link
from dhox.bench.remote import ssh
from dhox.bench.remote.board import MARK
from dhox.bench.remote.link import Board
from dhox.bench.remote.results import bring
from dhox.bench.remote.rsync import pull, push
from dhox.bench.remote.ssh import Connection
from dhox.errors import DhoxError

pytestmark = [pytest.mark.sshd, pytest.mark.xdist_group("sshd")]

DHOX = Path(sys.executable).with_name("dhox")
QUICK = ("--device", "cpu", "--duration", "0.05", "--batch", "1", "--scope", "e2e")
LONG = ("--device", "cpu", "--duration", "100", "--batch", "1", "--scope", "e2e")
NASTY = (
    "-rf.png",
    "two  spaces.png",
    "it's.png",
    'a"b$(touch x)`.png',
    "line\nbreak.png",
    "Übung 画像.png",
    "a;b|c&.png",
    "#*?[x].png",
)
NOT_FETCHED = "could not be fetched here"
OPEN = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Loopback]:
    found = loopback.start(tmp_path_factory.mktemp("sshd"))
    yield found
    loopback.stop(found)


@pytest.fixture(scope="session")
def python(board: loopback.Loopback) -> str:
    """The board's Python: another version than ours where one is at hand, in an environment without a package."""
    for name in ("python3.12", "python3.10", "python3.13", sys.executable):
        found = subprocess.run([name, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False) if shutil.which(name) else None  # fmt: skip
        if found is not None and found.returncode == 0:
            folder = board.folder / "board's python"
            subprocess.run([found.stdout.strip(), "-m", "venv", "--without-pip", folder], check=True)
            return str(folder / "bin/python")
    raise AssertionError


@pytest.fixture
def environment(board: loopback.Loopback, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in board.environment.items():
        monkeypatch.setenv(name, value)
    return {**os.environ}


def dhox_command(*words: object) -> list[str]:
    return [str(DHOX), *map(str, words)]


def call(*words: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(dhox_command(*words), capture_output=True, text=True, check=False, timeout=timeout)


def pip_cache() -> dict[str, str]:
    """pip keeps its downloads from run to run, although the tests have a cache folder of their own."""
    words = [sys.executable, "-m", "pip", "cache", "dir"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return {"PIP_CACHE_DIR": done.stdout.strip()} if done.returncode == 0 else {}


def index_answers(folder: Path) -> bool:
    words = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder / "wheel"), "packaging"]
    return subprocess.run([sys.executable, *words], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def first(
    board: loopback.Loopback, python: str, line: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A copy of the line with nasty names among its test images, a doctor before, and a first bench of it there."""
    root = tmp_path_factory.mktemp("first")
    shutil.copytree(line, root / "line")
    images = sorted((root / "line/data/test/bag").iterdir())
    for image, name in zip(images, NASTY, strict=False):
        image.rename(image.with_name(name))
    export = root / "line/runs/tiny/export"
    words = ("--host", "board", "--remote-python", python)
    variables = os.environ | board.environment | pip_cache()
    shared = {"text": True, "capture_output": True, "check": False, "env": variables, "cwd": root}
    doctor = subprocess.run(dhox_command("doctor", *words, "--json"), **shared)
    bench = dhox_command("bench", export, *words, *QUICK, "--data", root / "line/data", "--out", root / "bench")
    done = subprocess.run(bench, **shared)
    if NOT_FETCHED in done.stderr:  # a download may break
        done = subprocess.run(bench, **shared)
    if NOT_FETCHED in done.stderr and not index_answers(root):
        pytest.skip(loopback.NO_INDEX)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"root": root, "export": export, "words": words, "doctor": doctor, "done": done, "bench": root / "bench"}


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


def wait_until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def held(holder: socket.socket, board: loopback.Loopback) -> bool:
    """Take the board's lock, unless what an earlier test left there is still about to end."""
    try:
        holder.bind(board.lock)
    except OSError as err:
        if err.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def begin(board: loopback.Loopback, *words: object) -> subprocess.Popen[str]:
    """A long bench, once it takes times there."""
    process = subprocess.Popen(dhox_command(*words, *LONG), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    next(line for line in process.stdout if "fp16" in line and "ledger images" in line)
    time.sleep(0.5)
    assert any("dhox.cli.on_board" in command for command in running(board))
    return process


def test_a_bench_over_ssh_is_the_bench_of_the_board(
    first: dict[str, Any], board: loopback.Loopback, python: str
) -> None:
    content = read_json(first["bench"] / "bench.json", BENCH_SCHEMA)
    schema = json.loads((Path(dhox.bench.__file__).parent / "bench.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(content)
    assert content["status"] == "complete"
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert content["environment"]["python"] == version
    assert content["environment"].keys() >= {"dhox", "onnxruntime"}
    assert "torch" not in content["environment"]
    assert {row["scope"] for row in content["latency"]} == {"e2e"}
    # Every path is this machine's.
    assert content["subjects"][0]["export"]["path"] == str(first["export"])
    assert content["accuracy"]["data"] == str(first["root"] / "line/data")
    without = {key: value for key, value in content.items() if key != "remote"}
    assert str(board.store) not in json.dumps(without)
    # Names survive whatever they are, and the ledger finds its images again.
    predictions = (first["bench"] / "predictions.csv").read_text()
    assert all(f"test/bag/{name}".replace('"', '""') in predictions for name in NASTY)
    assert {row["agreement"] for row in content["ledgers"][0]["rows"]} == {1.0}
    assert all(row["passed"] for row in content["golden"])
    assert (first["bench"] / "report.html").is_file()
    assert running(board) == []
    assert list((board.store / "runs").iterdir()) == []


def times(board: loopback.Loopback) -> dict[Path, int]:
    """When each file of the store was written."""
    files = (path for path in (board.store / "trees").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_second_bench_copies_nothing(
    first: dict[str, Any], board: loopback.Loopback, environment: dict[str, str]
) -> None:
    before = times(board)
    done = call(
        "bench", first["export"], *first["words"], *QUICK, "--data", first["root"] / "line/data", "--out", "again"
    )
    assert "Copied 0 files" in done.stdout, done.stdout + done.stderr
    assert times(board) == before


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
    new = len(list(Path("copied/tiny/export").glob("*.*")))  # a place of its own; the images are shared
    assert f"Copied {2 + new} files" in done.stdout, done.stdout + done.stderr
    paths = [row["path"] for row in read_json(Path("several/bench.json"), BENCH_SCHEMA)["subjects"]]
    assert paths == [str(first["export"] / "model.onnx"), str(Path("copied/tiny/export/model.onnx").absolute())]


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
    assert done.stderr.startswith("Error: On board: --device jetson")
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
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert running(board) == []
    content = read_json(Path("stopped/bench.json"), BENCH_SCHEMA)
    assert content["status"] == "interrupted"
    assert content["accuracy"]["rows"]


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
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("Error: dhox on board was killed (SIGKILL; probably its memory was full). Look at `dmesg`")


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
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "Error: Interrupted before anything was measured on board. Run the same command again.\n"
    assert running(board) == []


def test_a_killed_dhox_leaves_nothing_there(
    first: dict[str, Any], board: loopback.Loopback, environment: dict[str, str]
) -> None:
    process = begin(board, "bench", first["export"], *first["words"], "--data", first["root"] / "line/data")
    process.kill()
    process.communicate()
    wait_until(lambda: running(board) == [])


def test_a_cut_connection_leaves_nothing_there_and_a_rerun_goes_on(
    first: dict[str, Any], board: loopback.Loopback, environment: dict[str, str]
) -> None:
    words = ("bench", first["export"], *first["words"], "--data", first["root"] / "line/data", "--out", "cut")
    process = begin(board, *words)
    children = Path(f"/proc/{board.process.pid}/task/{board.process.pid}/children").read_text().split()
    assert children
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The connection to board was lost" in said
    assert said.count("\n") == 1
    wait_until(lambda: running(board) == [])
    assert not Path("cut").exists()
    (left,) = re.findall(r"lies there in (.*); `scp -r 'board:.*' \.` brings it here\.$", said.strip())
    assert read_json(Path(left, "bench/bench.json"), BENCH_SCHEMA)["status"] == "interrupted"
    # Results that could not be written here stay there too, and what can be seen before is not measured.
    Path("a file").touch()
    refused = call(*words[:-1], "a file/out", *QUICK)
    assert "Could not write to" in refused.stderr
    assert "batch 1" not in refused.stdout
    again = call(*words, *QUICK)
    assert again.returncode == 0, again.stderr
    assert "Copied 0 files" in again.stdout


def test_silence_ends_a_command_though_the_connection_stands(board: loopback.Loopback, environment: dict[str, str], python: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(board_link, "PATIENCE_S", 3.0)
    monkeypatch.setattr(board_link, "HEARTBEAT_S", 1000.0)
    with Board("board", python) as there:
        start = time.monotonic()
        status = there.run(["sleep", "100"], {}, "silence", print)
        assert status == -signal.SIGINT
        assert 2.9 < time.monotonic() - start < 20


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


def test_silence_while_another_bench_measures_is_said(board: loopback.Loopback, environment: dict[str, str], python: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(board_link, "PATIENCE_S", 1.0)
    monkeypatch.setattr(board_link, "HEARTBEAT_S", 1000.0)
    with socket.socket(socket.AF_UNIX) as holder, Board("board", python) as there:
        wait_until(lambda: held(holder, board), 300)
        lines: list[str] = []
        assert there.run(["sleep", "100"], {}, "never", lines.append) == board_link.INTERRUPTED
    assert "waiting" in lines[0]
    assert "silence" in lines[-1]


@OPEN
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6))
def test_words_arrive_as_they_are(open_board: Board, words: list[str]) -> None:
    session = open_board.connection.start("printf", "%s\\0", *words)
    arrived = session.stdout.read().split(b"\0")[:-1]
    session.end()
    assert arrived == ([word.encode() for word in words] or [b""])


def test_arguments_of_a_command_arrive_as_they_are(open_board: Board, python: str) -> None:
    words = [*NASTY, "$HOME", "--", "-oProxyCommand=touch x", "~", ""]
    lines: list[str] = []
    open_board.run(
        [python, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *words], {}, "words", lines.append
    )
    assert json.loads(lines[-1]) == words


@pytest.fixture(scope="module")
def open_board(board: loopback.Loopback, python: str) -> Iterator[Board]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DHOX_SSH", board.environment["DHOX_SSH"])
        with Board("board", python) as there:
            yield there


def test_a_broken_copy_goes_on_where_it_ended(open_board: Board, board: loopback.Loopback) -> None:
    for number in range(20):
        Path(f"folder/{number}").parent.mkdir(exist_ok=True)
        Path(f"folder/{number}").write_bytes(f"part {number}".encode() * 500_000)
    there = board.store / "broken copy"
    seen: list[int] = []

    def breaking(count: int) -> None:
        seen.append(count)
        if len(seen) == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push(open_board.connection, Path("folder"), str(there), breaking)
    whole = {path.name: path.read_bytes() for path in Path("folder").iterdir()}
    wait_until(lambda: not list(there.glob(".*")))  # no half of a file stays
    assert all(whole[path.name] == path.read_bytes() for path in there.iterdir())
    files, _ = push(open_board.connection, Path("folder"), str(there), seen.append)
    assert 0 < files <= 11
    assert {path.name: path.read_bytes() for path in there.iterdir()} == whole


def test_a_command_that_looks_keeps_its_errors_apart(open_board: Board, python: str) -> None:
    code = "import os, sys; print('out'); print('a warning', file=sys.stderr); sys.exit(len(os.environ['X']))"
    assert open_board.look([python, "-c", code], {"X": "xx"}) == (2, b"out\n", "a warning\n")


def test_results_stay_on_the_board_until_they_are_forgotten(
    open_board: Board, board: loopback.Loopback, tmp_path: Path
) -> None:
    run = board.store / "runs/abc"
    (run / "bench").mkdir(parents=True)
    (run / "bench/bench.json").write_text('{"latency": []}')
    (run / "bench/samples.npz").write_bytes(b"samples")
    (run / "bench/.bashrc").write_text("touch x")
    (run / "bench/predictions.csv").symlink_to("/etc/passwd")
    (run / "elsewhere").mkdir()
    (run / "elsewhere/bench.json").write_text("{}")
    (tmp_path / "came").mkdir()
    pull(open_board.connection, str(run), tmp_path / "came")
    came = {path.relative_to(tmp_path / "came").as_posix() for path in (tmp_path / "came").rglob("*")}
    assert came == {"bench", "bench/bench.json", "bench/samples.npz"}
    remote = Remote(host="board", python="python3", probe=open_board.probe(), paths={})
    with pytest.raises(DhoxError, match="bench.json"):
        bring(open_board, str(run), tmp_path / "out", remote, False)
    assert (run / "bench/samples.npz").exists()
    assert not (tmp_path / "out").exists()
    open_board.forget(str(run))
    assert not run.exists()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"[1]", "does not understand"),
        (b"[" * 3000, "does not understand"),
        (b'{"host": 1}', "does not understand.*host"),
        (b'{"host": NaN}', "does not understand"),
        (b"damaged", "does not understand"),
        (b'{"error": {"reason": "\\u001b[31mred.", "fix": "Mend it."}}', "^On board: \ufffd\\[31mred. Mend it.$"),
    ],
)
def test_an_answer_that_no_dhox_gives_is_one_message(
    board: loopback.Loopback, environment: dict[str, str], python: str, answer: bytes, said: str
) -> None:
    liar = board.folder / "liar"
    (board.folder / "answer").write_bytes(MARK + answer + b"\n")
    liar.write_text(f"#!/bin/sh\ncat '{board.folder}/answer'\nexec cat > /dev/null\n")
    liar.chmod(0o755)
    with Board("board", str(liar)) as there, pytest.raises(DhoxError, match=said) as caught:
        there.probe()
    assert str(caught.value).isprintable()


def test_a_full_disk_is_one_message_and_leaves_nothing_half_written(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = loopback.start(tmp_path / "sshd")
    board.store.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", board.store], capture_output=True, check=False
    )
    try:
        if mounted.returncode:
            pytest.skip("no small disk can be mounted here: needs root")
        monkeypatch.setenv("DHOX_SSH", board.environment["DHOX_SSH"])
        Path("folder").mkdir()
        Path("folder/a").write_bytes(bytes(500_000))
        Path("folder/b").write_bytes(b"b" * 4_000_000)
        with Board("board", python) as there, pytest.raises(DhoxError, match="No space left") as caught:
            push(there.connection, Path("folder"), str(board.store), lambda count: None)
        assert "DHOX_REMOTE_CACHE" in caught.value.fix
        assert {path.name: path.stat().st_size for path in board.store.iterdir()} == {"a": 500_000}
    finally:
        loopback.stop(board)
        subprocess.run(["umount", board.store], capture_output=True, check=False)


def test_where_rsync_is_missing_it_is_said(
    board: loopback.Loopback, environment: dict[str, str], python: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without = tmp_path / "without rsync"
    without.write_text(f'#!/bin/sh\nPATH=/nowhere exec {shlex.quote(python)} "$@"\n')
    without.chmod(0o755)
    with Board("board", str(without)) as there, pytest.raises(DhoxError, match="rsync.*there.*apt install"):
        there.prepare([])
    with Board("board", python) as there:
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(DhoxError, match="rsync.*here.*apt install"):
            push(there.connection, tmp_path, str(board.store), lambda count: None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"HostName": "no-such-host.invalid"}, "no host of this name is known.*Check the name"),
        ({"Port": 1}, "nothing listens on its ssh port.*Start sshd there"),
        ({"IdentityFile": "/nowhere"}, "it refused your key.*ssh-copy-id board"),
        ({"UserKnownHostsFile": "/dev/null"}, "its host key is not known here yet.*Connect once with ssh"),
        ({"UserKnownHostsFile": "OTHER"}, "its host key is not the one that you trusted.*ssh-keygen -R board"),
        ({"NoSuchOption": "yes"}, "your ssh configuration is refused.*Mend it"),
        ({"ProxyCommand": "false"}, "no login by ssh came about.*Check it with `ssh board`"),
        ({"ProxyCommand": "echo HTTP/1.1 400 Bad Request"}, "no login by ssh came about"),
        ({"ProxyCommand": "sleep 30"}, "it cannot be reached.*switched on"),
    ],
)  # fmt: skip
def test_a_login_that_fails_says_why(
    board: loopback.Loopback, options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if options.get("UserKnownHostsFile") == "OTHER":
        known = tmp_path / "known"
        known.write_text(f"[127.0.0.1]:{board.port} {loopback.key(tmp_path / 'other')}")
        options = {"UserKnownHostsFile": known}
    monkeypatch.setenv("DHOX_SSH", board.configure("failing", **options))
    silent = options.get("ProxyCommand") == "sleep 30"
    monkeypatch.setitem(ssh.OPTIONS, "ConnectTimeout", "1" if silent else "300")
    with pytest.raises(DhoxError, match=said) as caught, Connection("board"):
        pass
    assert "\n" not in str(caught.value)
    assert "\N{REPLACEMENT CHARACTER}" not in str(caught.value)


def test_a_board_without_a_python_that_dhox_can_use(board: loopback.Loopback, environment: dict[str, str], python: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    with (
        Board("board", "no such python") as there,
        pytest.raises(DhoxError, match="no such python.*--remote-python"),
    ):
        there.probe()
    with Board("board", "echo") as there, pytest.raises(DhoxError, match="echo.*--remote-python"):
        there.probe()
    monkeypatch.setattr(board_link, "CHECK", board_link.CHECK.replace("(3, 10)", "(9, 9)"))
    # Python 2 knows no -X.
    old = board.folder / "old python"
    refusal = "echo \"(Try 'python -h' for more information.)\" >&2; exit 2"
    old.write_text(f'#!/bin/sh\n[ "$1" = -c ] || {{ {refusal}; }}\nexec {shlex.quote(python)} "$@"\n')
    old.chmod(0o755)
    with (
        Board("board", str(old)) as there,
        pytest.raises(DhoxError, match="Python 3.*3.10.*--remote-python"),
    ):
        there.probe()
    with (
        Board("board", python) as there,
        pytest.raises(DhoxError, match=r"Python 3\.\d+.*3.10.*--remote-python"),
    ):
        there.probe()


def test_odd_folders_for_temporary_files(board: loopback.Loopback, environment: dict[str, str], python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    for name in ("a b %h", "long" * 30):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
        with Board("board", python) as there:
            socket = there.connection.folder / "s"
            assert socket.is_socket()
            assert there.probe().system == "Linux"
        assert not socket.exists()


def test_a_login_shell_that_greets_is_named(
    board: loopback.Loopback, environment: dict[str, str], python: str, tmp_path: Path
) -> None:
    def copied() -> tuple[int, int]:
        with Board("board", python) as there:
            assert there.probe().system == "Linux"
            return push(there.connection, tmp_path, str(board.store / "greeted"), lambda count: None)

    try:
        (board.home / ".bashrc").write_text("echo to the board >&2\n")
        assert copied() == (0, 0)
        (board.home / ".bashrc").write_text("echo Welcome\n")
        with pytest.raises(DhoxError, match="login shell.*bashrc"):
            copied()
    finally:
        (board.home / ".bashrc").unlink()
