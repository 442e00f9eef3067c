"""What runs on a board for `dhox bench --host`: sent over ssh to its Python, standard library only.

A request is one line of JSON on stdin (`action` and its `arguments`); answers are lines that begin with MARK. Files lie
under `store()`: trees/NAME holds what rsync brought, runs/ID what a command works on and leaves.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MARK = b"dhox-board "
LOCK = "DHOX_BENCH_LOCK"  # environment variable: the name of this machine's lock; empty for what its holder runs
LONGEST_LOCK = 100  # bytes; sun_path holds 108
PATIENCE_S = 60.0  # without a byte from the other end
# After the link ended. Setting a power mode back may take 80 s: nvpmodel 60, and 10 for each look at what is set.
GRACE_S = {signal.SIGINT: 0.0, signal.SIGTERM: 15.0, signal.SIGKILL: 120.0}
KEEP_S = 30 * 86400.0  # what no bench used for this long is deleted
POLL_S = 0.05
LOOK_S = 300  # dhox doctor: TensorRT may load slowly, and nvpmodel has a minute
PR_SET_PDEATHSIG = 1
END_OF_INPUT = "end of input"
INTERRUPTED = 130  # exit status after Ctrl-C


class BoardError(Exception):
    """What the user must know: the reason, and what to do."""


def answer(**content: Any) -> None:
    """One line to the other end."""
    sys.stdout.buffer.write(MARK + json.dumps(content).encode() + b"\n")
    sys.stdout.buffer.flush()


def store() -> Path:
    """Where dhox keeps files on this machine: $DHOX_REMOTE_CACHE, else $XDG_CACHE_HOME/dhox, else ~/.cache/dhox."""
    if os.environ.get("DHOX_REMOTE_CACHE"):
        place = Path(os.environ["DHOX_REMOTE_CACHE"]).expanduser().absolute()
    else:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "dhox"
    if os.pathsep in str(place):
        raise BoardError(f"PYTHONPATH cannot name {place}, which has a colon.", "Set DHOX_REMOTE_CACHE there.")
    return place


# What this machine is.


def probe() -> None:
    """Facts of this machine that decide what can be measured and which packages it needs."""
    texts = dict.fromkeys(("/etc/nv_tegra_release", "/proc/device-tree/model", "/etc/os-release"), "")
    for name in texts:
        with contextlib.suppress(OSError):
            texts[name] = Path(name).read_bytes()[:4096].decode(errors="replace").strip("\0\n ")
    disk = store()
    while not disk.exists():
        disk = disk.parent
    answer(
        host=platform.node(),
        machine=platform.machine(),
        system=platform.system(),
        libc=list(platform.libc_ver()),
        python={"version": list(sys.version_info[:3]), "path": sys.executable},
        tensorrt=imported("tensorrt", "module.__version__"),
        onnxruntime=imported("onnxruntime", "' '.join([module.__version__, *module.get_available_providers()])"),
        texts=texts,
        store=str(store()),
        free_bytes=shutil.disk_usage(disk).free,
        environment=remembered(),
    )


def imported(module: str, what: str) -> dict[str, Any]:
    """Whether this Python imports a module, in a process of its own since a broken library can kill it."""
    code = f"import json, {module} as module; print(); print(json.dumps({what}))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", timeout=60, check=False,
            stdin=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"works": False, "found": "its import did not end within 60 seconds"}
    if done.returncode == 0:
        return {"works": True, "found": json.loads(done.stdout.splitlines()[-1])}
    said = done.stderr.strip().splitlines()
    return {"works": False, "found": said[-1] if said else f"its import ended with status {done.returncode}"}


def remembered() -> list[str]:
    """The trees that make up dhox for this Python's version, as the last bench left their names; none without."""
    try:
        keys = json.loads((store() / "environment-{}.{}.json".format(*sys.version_info)).read_text())
    except (OSError, ValueError):
        return []
    return [str(key) for key in keys] if isinstance(keys, list) else []


def prepare(trees: list[str]) -> None:
    """Make folders to copy into, and note that they are used; delete trees and results that no bench used for KEEP_S.

    BoardError without rsync.
    """
    if shutil.which("rsync") is None:
        raise BoardError("rsync is not installed there.", "Install it there: sudo apt install rsync.")
    for name in trees:
        (store() / "trees" / name).mkdir(parents=True, exist_ok=True)
        os.utime(store() / "trees" / name)
    for entry in [*store().glob("trees/*"), *store().glob("runs/*")]:
        with contextlib.suppress(FileNotFoundError):  # another one cleans too
            if time.time() - entry.stat().st_mtime > KEEP_S:
                shutil.rmtree(entry, ignore_errors=True)
    answer()


# Commands.


class Link:
    """The other end as a running command sees it: a stdin that speaks now and then. `ended`: why it is gone."""

    def __init__(self, patience_s: float) -> None:
        self.ended: str | None = None
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda number, frame: self.end(f"signal {number}"))
        threading.Thread(target=self.listen, args=(patience_s,), daemon=True).start()

    def end(self, why: str) -> None:
        """It is gone."""
        self.ended = self.ended or why

    def listen(self, patience_s: float) -> None:
        """Wait for the end of stdin, or for its silence."""
        while select.select([0], [], [], patience_s)[0]:
            if not os.read(0, 4096):
                return self.end(END_OF_INPUT)
        return self.end("silence")


def take(holder: socket.socket) -> bool:
    """Take this machine's lock with a socket; False where somebody holds it.

    An abstract socket: one for the whole machine (its network namespace), freed by the kernel whatever ends its holder.
    """
    name = os.environ.get(LOCK, "dhox-bench")
    try:
        if name:
            holder.bind(b"\0" + os.fsencode(name)[:LONGEST_LOCK])
    except OSError as err:
        if err.errno != errno.EADDRINUSE:
            raise
        return False
    return True


@contextlib.contextmanager
def alone(link: Link) -> Iterator[int]:
    """Hold this machine for one bench at a time; waits, and says so, while another one holds it and the link stands.

    Gives the number of what holds it, for the command: the machine is held until the last one that has it ends.
    """
    with socket.socket(socket.AF_UNIX) as holder:
        if not take(holder):
            answer(out="Another dhox bench measures on this board: waiting for its end (Ctrl-C gives up).")
            while link.ended is None and not take(holder):
                time.sleep(POLL_S)
        yield holder.fileno()


def run(command: list[str], environment: dict[str, str], run: str, patience_s: float = PATIENCE_S) -> None:
    """Run one command in runs/RUN until it ends, or until the link does; its output goes line by line over the link.

    The command has a session and process group of its own. When stdin ends, or says nothing for `patience_s`, the group
    gets SIGINT, then SIGTERM, then SIGKILL. Its output goes to a file, so that a stuck link never keeps it from
    cleaning up. Where the link ends while another bench measures, nothing is started, and the status is INTERRUPTED.
    """
    folder = store() / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    link = Link(patience_s)
    with alone(link) as holder:
        if link.ended is not None:
            if link.ended != END_OF_INPUT:  # the other end gave up
                answer(out=f"No longer waiting: the connection ended ({link.ended}).")
            answer(status=INTERRUPTED, ended=link.ended)
            return
        with (folder / "output").open("wb") as output:
            child = subprocess.Popen(
                command, cwd=folder, env=inherited(environment | {LOCK: ""}), stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=(holder,),
                preexec_fn=_ending_with(os.getpid()),
            )  # fmt: skip
        over = threading.Event()
        relay = threading.Thread(target=follow, args=(folder / "output", over), daemon=True)
        relay.start()
        try:
            status = watch(child, link)
        finally:
            _signal_group(child.pid, signal.SIGKILL)  # whatever the command left behind
    over.set()
    relay.join(5.0)
    if relay.is_alive():  # nobody reads
        os._exit(1)
    answer(status=status, ended=link.ended)


def inherited(environment: dict[str, str]) -> dict[str, str]:
    """This process's environment with another one over it; what the board has on its PYTHONPATH comes last."""
    paths = [environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
    return {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _ending_with(watcher: int) -> Callable[[], None]:
    """What a child runs before its command: it gets SIGINT when the watcher dies, however (Linux, prctl(2))."""
    library = ctypes.CDLL(None)  # loaded before the fork

    def bind() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != watcher:  # it died before
            os.kill(os.getpid(), signal.SIGINT)

    return bind


def follow(path: Path, over: threading.Event) -> None:
    """Relay a growing file line by line until `over`; may be stuck for ever where nobody reads."""
    rest = b""
    with path.open("rb") as file, contextlib.suppress(OSError):
        while True:
            last = over.is_set()  # before the file is read to its end
            *lines, rest = (rest + file.read()).split(b"\n")
            for line in [*lines, *([rest] if last and rest else [])]:
                answer(out=line.decode(errors="replace"))
            if last:
                return
            over.wait(POLL_S)


def watch(child: subprocess.Popen[bytes], link: Link) -> int:
    """Wait for the child, and end its group with the link; answers with its status."""
    ended_at: float | None = None
    left = list(GRACE_S.items())
    while child.poll() is None:
        if link.ended is not None:
            ended_at = ended_at or time.monotonic()
            while left and time.monotonic() - ended_at >= left[0][1]:
                _signal_group(child.pid, left.pop(0)[0])
        time.sleep(POLL_S)
    return child.wait()


def _signal_group(group: int, number: int) -> None:
    """Signal every process of a group that is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def look(command: list[str], environment: dict[str, str]) -> None:
    """Become a command that measures nothing: at once, without the lock, and ended after LOOK_S."""
    os.chdir(store())
    os.execvpe("timeout", ["timeout", str(LOOK_S), *command], inherited(environment))


def main() -> None:
    """Answer one request."""
    os.umask(0o077)
    signal.alarm(int(PATIENCE_S))  # a connection may end unseen
    request = json.loads(sys.stdin.buffer.readline())
    signal.alarm(0)
    actions = {act.__name__: act for act in (probe, prepare, look, run)}
    try:
        actions[request["action"]](**request["arguments"])
    except BoardError as err:
        reason, fix = err.args
        answer(error={"reason": reason, "fix": fix})
    except OSError as err:
        where = f"{err.strerror} ({err.filename})." if err.filename else f"{err}."
        answer(error={"reason": where, "fix": f"Check the disk and the permissions of {store()}."})


if __name__ == "__main__":
    main()
