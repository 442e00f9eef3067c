"""A board on this machine: an sshd of our own on a free port, with a home and a store of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dhox.artefacts.remote import BoardPython, BoardRuntime, Probe

NO_SSHD = "no sshd or no rsync here (apt install openssh-server rsync)"
NO_INDEX = "no package index here, for the packages of the board's Python"
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") if shutil.which("rsync") else None
DHOX = Path(sys.executable).with_name("dhox")
QUICK = ("--device", "cpu", "--duration", "0.05", "--batch", "1", "--scope", "e2e")
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
ORIN_PROBE = Probe(
    host="orin", system="Linux", machine="aarch64", libc=("glibc", "2.35"), store="/s", free_bytes=1, environment=[],
    python=BoardPython(version=(3, 10, 12), path="/usr/bin/python3"), tensorrt=BoardRuntime(True, "10.3.0"),
    onnxruntime=BoardRuntime(False, "ModuleNotFoundError"),
    texts={"/etc/nv_tegra_release": "", "/proc/device-tree/model": ""},
)  # fmt: skip


@dataclass
class Loopback:
    """`environment`: what the local dhox and ssh need to reach it as host `board`. `home`: the home of what runs there."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def lock(self) -> bytes:
        """The address of the lock of the benches there."""
        return f"\0dhox-board-{os.getpid()}-{self.port}".encode()

    @property
    def store(self) -> Path:
        return self.home / "store"

    def configure(self, name: str, **options: object) -> str:
        """Another client configuration; the value of DHOX_SSH for it."""
        path = self.folder / f"{name}.config"
        values = {
            "HostName": "127.0.0.1", "Port": self.port, "IdentityFile": self.folder / "key", "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.folder / "known_hosts", "GlobalKnownHostsFile": "/dev/null", "IdentityAgent": "none",
        } | options  # fmt: skip
        path.write_text("Host board\n" + "".join(f"  {key} {value}\n" for key, value in values.items()))
        return f"ssh -F {path}"


def free_port() -> int:
    """A port that nobody listens on, below those that the kernel gives to clients."""
    for port in random.Random().sample(range(20000, 32768), 1000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port from 20000 to 32767")


def key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


def start(folder: Path) -> Loopback:
    """Start an sshd with keys of its own; `stop` it again."""
    assert SSHD is not None
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / "home of the board"
    home.mkdir()
    host_key = key(folder / "host_key")
    (folder / "authorized_keys").write_text(key(folder / "key"))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    board = listen(folder, home, host_key) or listen(folder, home, host_key)  # somebody may take the port first
    assert board is not None, (folder / "log").read_text()
    return board


def listen(folder: Path, home: Path, host_key: str) -> Loopback | None:
    """Start sshd on a free port; None where it does not come to listen there."""
    assert SSHD is not None
    port = free_port()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f'PermitRootLogin prohibit-password\nSetEnv "HOME={home}" "DHOX_REMOTE_CACHE={home}/store" OMP_NUM_THREADS=1 '
        f"DHOX_BENCH_LOCK=dhox-board-{os.getpid()}-{port}\n"
    )
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=(folder / "log").open("wb"))
    board = Loopback(folder, port, process, home)
    board.environment = {"DHOX_SSH": board.configure("usual"), "XDG_CACHE_HOME": str(folder / "cache")}
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if f"Server listening on 127.0.0.1 port {port}" in (folder / "log").read_text():
            return board
        time.sleep(0.02)
    stop(board)
    return None


def stop(board: Loopback) -> None:
    board.process.terminate()
    board.process.wait(10)


def dhox_command(*words: object) -> list[str]:
    return [str(DHOX), *map(str, words)]


def call(*words: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(dhox_command(*words), capture_output=True, text=True, check=False, timeout=timeout)


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def held(holder: socket.socket, board: Loopback) -> bool:
    """Take the board's lock, unless what an earlier test left there is still about to end."""
    try:
        holder.bind(board.lock)
    except OSError as err:
        if err.errno != errno.EADDRINUSE:
            raise
        return False
    return True
