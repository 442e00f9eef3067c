"""What runs on a board for `dhox bench --host`: sent over ssh to its Python, standard library only.

A request is one line of JSON on stdin (`action` and its `arguments`); answers are lines that begin with MARK. Files lie
under `store()`: blobs/SHA256, and trees/KEY/... of hard links to them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import filecmp
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

MARK = b"dhox-board "
LOCK = "DHOX_BENCH_LOCK"  # environment variable: the name of this machine's lock; empty for what its holder runs
LONGEST_LOCK = 100  # bytes; sun_path holds 108
PATIENCE_S = 60.0  # without a byte from the other end
# After the link ended. Setting a power mode back may take 80 s: nvpmodel 60, and 10 for each look at what is set.
GRACE_S = {signal.SIGINT: 0.0, signal.SIGTERM: 15.0, signal.SIGKILL: 120.0}
KEEP_S = 30 * 86400.0  # what no bench used for this long is deleted
DAY_S = 86400.0
RESERVE = 32 << 20  # bytes that results and engines may need beside the files
BLOCK = 1 << 20
LOOK_S = 300.0  # dhox doctor: TensorRT may load slowly, and nvpmodel has a minute
PR_SET_PDEATHSIG = 1
INTERRUPTED = 130  # exit status after Ctrl-C


class BoardError(Exception):
    """What the user must know, in words."""


class LinkLost(Exception):  # noqa: N818
    """The other end is gone."""


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
        raise BoardError(f"PYTHONPATH cannot name {place}, which has a colon. Set DHOX_REMOTE_CACHE there")
    return place


def free_bytes() -> int:
    """Free space of the store's disk."""
    place = store()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


# What this machine is.


def probe() -> None:
    """Facts of this machine that decide what can be measured and which packages it needs."""
    texts = dict.fromkeys(("/etc/nv_tegra_release", "/proc/device-tree/model", "/etc/os-release"), "")
    for name in texts:
        with contextlib.suppress(OSError):
            texts[name] = Path(name).read_bytes()[:4096].decode(errors="replace").strip("\0\n ")
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
        free_bytes=free_bytes(),
        environment=remembered(),
    )  # fmt: skip


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


# Files.


def missing(blobs: dict[str, int]) -> None:
    """Which blobs (SHA-256: bytes) are not here, or damaged. BoardError where the disk cannot hold them.

    Each one is read: a power cut, or a hand in the store, may have changed it.
    """
    place = store() / "blobs"
    lacking = [name for name in blobs if content_hash(place / name) != name]
    # File systems give whole blocks.
    needed, free = sum(blobs[name] + 4096 for name in lacking) + RESERVE, free_bytes()
    if lacking and needed > free:
        raise BoardError(disk_full(f"{needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free"))
    answer(missing=lacking)


def content_hash(path: Path) -> str | None:
    """SHA-256 of a file, None where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def disk_full(how: str) -> str:
    """The one message of a full disk."""
    return (
        f"the disk of {store()} is full ({how}). Free space there, or set DHOX_REMOTE_CACHE on the board to a folder "
        "on another disk"
    )


def receive(blobs: dict[str, int]) -> None:
    """Take blobs from a tar stream on stdin; each appears under its name once its hash was checked."""
    place, incoming = store() / "blobs", store() / "incoming"
    for folder in (place, incoming):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = incoming / f"{os.getpid()}"
    try:
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            for member in archive:
                signal.alarm(int(PATIENCE_S))
                content = archive.extractfile(member)
                if content is None or member.name not in blobs:
                    raise BoardError("the copy holds a file that was not announced")
                digest = hashlib.sha256()
                with temporary.open("wb") as file:
                    while block := content.read(BLOCK):
                        signal.alarm(int(PATIENCE_S))
                        digest.update(block)
                        file.write(block)
                if digest.hexdigest() != member.name:
                    raise BoardError("a file changed while it was copied. Run the same command again")
                temporary.chmod(0o444)
                temporary.replace(place / member.name)
    except tarfile.ReadError as err:
        raise LinkLost from err
    finally:
        signal.alarm(0)
        temporary.unlink(missing_ok=True)
    answer()


def place(trees: dict[str, dict[str, str]], environment: list[str] | None = None) -> None:
    """Make trees/KEY for each key: {relative path: blob}, and mend those that are there; what was added to one stays.

    `environment`: the keys that make up dhox for this Python, remembered for `dhox doctor --host`.
    """
    for key, files in trees.items():
        for relative, blob in files.items():
            link(store() / "blobs" / blob, inside(store() / "trees" / key, relative))
        os.utime(store() / "trees" / key)
    if environment is not None:
        temporary = store() / f".environment-{os.getpid()}"
        temporary.write_text(json.dumps(environment))
        temporary.replace(prepared())
    clean()
    answer(trees=str(store() / "trees"))


def inside(folder: Path, relative: str) -> Path:
    """A path below a folder. BoardError for one that leads out of it."""
    parts = PurePosixPath(relative).parts
    if not parts or ".." in parts or parts[0].startswith("/"):
        raise BoardError(f"{relative!r} leads out of its folder")
    return folder.joinpath(*parts)


def prepared() -> Path:
    """Where the keys of the trees that make up dhox for this Python's version are remembered."""
    return store() / f"environment-{sys.version_info[0]}.{sys.version_info[1]}.json"


def remembered() -> list[str]:
    """The keys that `place` remembered; none where it never did, or where they cannot be read."""
    try:
        keys = json.loads(prepared().read_text())
    except (OSError, ValueError):
        return []
    return [str(key) for key in keys] if isinstance(keys, list) else []


def link(blob: Path, target: Path) -> None:
    """Make a file that is its blob by a hard link, or a copy where the file system has none; nothing where it is."""
    with contextlib.suppress(OSError):
        if target.samefile(blob) or filecmp.cmp(target, blob, shallow=False):
            return
    temporary = store() / "incoming" / f"link-{os.getpid()}"
    for folder in (target.parent, temporary.parent):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        try:
            os.link(blob, temporary)
        except OSError as err:
            if err.errno in {errno.ENOENT, errno.ENOSPC}:
                raise
            shutil.copyfile(blob, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def clean() -> None:
    """Delete trees and results that no bench used for KEEP_S, leftovers of killed copies, and blobs in no tree."""
    now = time.time()
    for folder, age in (("trees", KEEP_S), ("runs", KEEP_S), ("incoming", DAY_S), ("blobs", DAY_S)):
        for entry in contents(store() / folder):
            with contextlib.suppress(FileNotFoundError):  # another one cleans too
                status = entry.stat()
                if now - status.st_mtime < age or (folder == "blobs" and status.st_nlink > 1):
                    continue
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()


def contents(folder: Path) -> list[Path]:
    """What lies in a folder, if there is one."""
    return list(folder.iterdir()) if folder.is_dir() else []


def collect(run: str) -> None:
    """Send the files of runs/RUN as a tar stream after a line that says how many there are."""
    folder = run_folder(run)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    answer(files=len(files))
    if files:
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
            for path in files:
                archive.add(path, path.relative_to(folder).as_posix())
        sys.stdout.buffer.flush()


def forget(run: str) -> None:
    """Delete runs/RUN, once the other end has written what it needs of it."""
    shutil.rmtree(run_folder(run), ignore_errors=True)
    answer()


def run_folder(run: str) -> Path:
    """Where a run works and leaves its files."""
    return inside(store() / "runs", run)


# Commands.


class Link:
    """The other end as a running command sees it: a stdin that speaks now and then, and a stdout that may be stuck."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self.heard = time.monotonic()
        self.ended: str | None = None
        self.pending = bytearray()
        os.set_blocking(1, False)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self.told)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def told(self, number: int, frame: object) -> None:
        """A signal ends the link."""
        self.ended = self.ended or f"signal {number}"

    def send(self, **content: Any) -> None:
        """Queue one line; nothing more is queued for somebody who does not read."""
        if self.ended != "broken output" and len(self.pending) < BLOCK:
            self.pending += MARK + json.dumps(content).encode() + b"\n"

    def attend(self, others: list[int], seconds: float) -> list[int]:
        """Wait until any of `others` is readable, at most `seconds`; meanwhile write, and notice the link's end."""
        reading = others + ([0] if self.ended is None else [])
        readable, writable, _ = select.select(reading, [1] if self.pending else [], [], seconds)
        if 0 in readable:
            self.heard = time.monotonic()
            try:
                if not os.read(0, BLOCK):
                    self.ended = "end of input"
            except OSError:
                self.ended = "broken input"
        elif self.ended is None and time.monotonic() - self.heard > self.patience_s:
            self.ended = "silence"
        if writable:
            try:
                del self.pending[: os.write(1, self.pending[:65536])]
            except BlockingIOError:
                pass
            except OSError:
                self.ended = self.ended or "broken output"
                self.pending.clear()
        return [fd for fd in readable if fd != 0]

    def flush(self, seconds: float = 5.0) -> None:
        """Write what is queued, as long as somebody takes it."""
        end = time.monotonic() + seconds
        while self.pending and time.monotonic() < end:
            self.attend([], 0.1)


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
        told = False
        while link.ended is None and not take(holder):
            if not told:
                link.send(out="Another dhox bench measures on this board: waiting for its end (Ctrl-C gives up).")
                told = True
            link.attend([], 0.5)
        yield holder.fileno()


def run(command: list[str], environment: dict[str, str], run: str, patience_s: float = PATIENCE_S) -> None:
    """Run one command in runs/RUN until it ends, or until the link does; its output goes line by line over the link.

    The command has a session and process group of its own. When stdin ends, or says nothing for `patience_s`, the group
    gets SIGINT, then SIGTERM, then SIGKILL. Its output always has a reader, so that it can clean up in peace. Where the
    link ends while another bench measures, the command is not started, and its status is INTERRUPTED.
    """
    folder = run_folder(run)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    link = Link(patience_s)
    with alone(link) as holder:
        if link.ended is not None:
            give_up(link)
            return
        child = subprocess.Popen(
            command, cwd=folder, env=inherited(environment | {LOCK: ""}), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=(holder,),
            preexec_fn=ending_with(os.getpid()),
        )  # fmt: skip
        try:
            status = watch(child, link)
        finally:
            signal_group(child.pid, signal.SIGKILL)  # whatever the command left behind
    link.send(status=status, ended=link.ended)
    link.flush()


def give_up(link: Link) -> None:
    """Answer for a command that was never started, since the link ended while it waited for its turn."""
    if link.ended == "silence":
        link.send(out=f"No longer waiting: nothing was heard over the connection for {link.patience_s:g} seconds.")
    elif link.ended != "end of input":
        link.send(out=f"No longer waiting: {link.ended}.")
    link.send(status=INTERRUPTED, ended=link.ended)
    link.flush()


def inherited(environment: dict[str, str]) -> dict[str, str]:
    """This process's environment with another one over it; what the board has on its PYTHONPATH comes last."""
    paths = [environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
    return {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def ending_with(watcher: int) -> Callable[[], None]:
    """What a child runs before its command: it gets SIGINT when the watcher dies, however (Linux, prctl(2))."""
    library = ctypes.CDLL(None)  # loaded before the fork

    def bind() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != watcher:  # it died before
            os.kill(os.getpid(), signal.SIGINT)

    return bind


def look(command: list[str], environment: dict[str, str]) -> None:
    """Run a command that measures nothing: at once, without the lock, and with what it writes apart from its errors."""
    try:
        done = subprocess.run(
            command, cwd=store(), env=inherited(environment), capture_output=True, timeout=LOOK_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as err:
        raise BoardError(f"the command there did not end within {LOOK_S:.0f} seconds. Run it again") from err
    answer(status=done.returncode, out=done.stdout.decode(errors="replace"), err=done.stderr.decode(errors="replace"))


def watch(child: subprocess.Popen[bytes], link: Link) -> int:
    """Relay the child's output and end its group with the link; answers with its status."""
    assert child.stdout is not None
    output: int | None = child.stdout.fileno()
    rest = b""
    ended_at: float | None = None
    left = list(GRACE_S.items())
    while child.poll() is None or output is not None:
        status = child.poll()
        readable = link.attend([output] if output is not None else [], 0.2)
        if readable and output is not None:
            block = os.read(output, 65536)
            output = output if block else None
            *lines, rest = (rest + block).split(b"\n")
            for line in [*lines, *([rest] if not block and rest else [])]:
                link.send(out=line.decode(errors="replace"))
        elif status is not None:  # a grandchild may hold the pipe open for ever
            output = None
        if link.ended is not None:
            ended_at = ended_at or time.monotonic()
            while left and time.monotonic() - ended_at >= left[0][1]:
                signal_group(child.pid, left.pop(0)[0])
    return child.wait()


def signal_group(group: int, number: int) -> None:
    """Signal every process of a group that is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def main() -> None:
    """Answer one request."""

    def lost(number: int, frame: object) -> None:
        raise LinkLost

    signal.signal(signal.SIGALRM, lost)
    os.umask(0o077)
    signal.alarm(int(PATIENCE_S))  # a connection may end unseen
    request = json.loads(sys.stdin.buffer.readline())
    signal.alarm(0)
    actions = {act.__name__: act for act in (probe, missing, receive, place, look, run, collect, forget)}
    try:
        actions[request["action"]](**request["arguments"])
    except BoardError as err:
        answer(error=str(err))
    except LinkLost:
        sys.exit(1)
    except OSError as err:
        full = err.errno in {errno.ENOSPC, errno.EDQUOT}
        where = f"{err.strerror} ({err.filename})" if err.filename else str(err)
        answer(error=disk_full(str(err.strerror)) if full else f"{where}. Check the permissions of {store()}")


if __name__ == "__main__":
    main()
