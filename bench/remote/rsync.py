"""Files to a board and results back: rsync over the connection that stands."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from dhox.artefacts.files import LARGEST_NPZ
from dhox.bench.remote.ssh import LINK_FAILED, Connection, printable, why
from dhox.errors import DhoxError

SILENCE_S = 60  # both ends give up after this long without a byte
LINK_ENDED = (LINK_FAILED, 12, 30, 35)  # exit statuses: ssh's own, and rsync's of a cut or a silent connection
NOT_CLEAN = 2  # exit status: what came first was not rsync's
NOT_WRITTEN = 11  # exit status: such as a full disk
RESULTS = ("/bench/", "/bench.partial/", "/bench*/*/", "bench.json", "samples.npz", "predictions.csv")


def push(connection: Connection, folder: Path, place: str, advance: Callable[[int], None]) -> tuple[int, int]:
    """Make every file of a folder lie below a place there, equal in content; files and bytes that were sent.

    Links are followed, nothing is deleted there, and a file is there whole or not at all. `advance` counts the files.
    """
    sent: list[int] = []

    def count(line: str) -> None:
        kind, _, size = line.partition(" ")
        if kind[1:2] == "f":
            advance(1)
        if kind.startswith("<f"):
            sent.append(int(size))

    # Twice -i: files that are equal have a line too.
    options = ["--copy-links", "--checksum", "-i", "-i", "--out-format=%i %l", "--outbuf=L"]
    _transfer(connection, [*options, f"{folder}/", f"env:{place}/"], count)
    return len(sent), sum(sent)


def pull(connection: Connection, place: str, folder: Path) -> None:
    """Copy the files of results below a place there into an empty folder: no links, and nothing else."""
    filters = [*(f"--include={name}" for name in RESULTS), "--exclude=*"]
    _transfer(connection, [f"--max-size={LARGEST_NPZ}", *filters, f"env:{place}/", f"{folder}/"], lambda line: None)


def _transfer(connection: Connection, words: list[str], take: Callable[[str], None]) -> None:
    """Run rsync; `take` gets the lines that it prints. Raises DhoxError where it is missing or fails.

    rsync's HOST is the first word of the command line there, so `env:` stands for the board, whatever its address.
    """
    if shutil.which("rsync") is None:
        raise DhoxError("rsync is not installed here.", "Install it, as on the board: sudo apt install rsync.")
    # In --rsh a quote inside quotes is written twice. --protect-args: no shell sees a path.
    shell = " ".join("'{}'".format(word.replace("'", "''")) for word in connection.words(False, ()))
    command = ["rsync", "-r", "--protect-args", f"--timeout={SILENCE_S}", f"--rsh={shell}", *words]
    with tempfile.TemporaryFile() as said:
        # A process group of its own: Ctrl-C is ours to handle.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                take(line)
            status = process.wait()
        finally:
            process.terminate()
            process.wait()
        said.seek(0)
        lines = printable(said.read().decode(errors="replace")).strip().splitlines() or [f"status {status}"]
    if status in LINK_ENDED:
        raise why(connection.host, "\n".join(lines), stood=True)
    if status == NOT_CLEAN:
        raise DhoxError(
            f"{connection.host}: rsync does not understand what the login shell there says ({lines[0]}).",
            "Let its start files, such as ~/.bashrc, print nothing where no terminal is.",
        )
    if status == NOT_WRITTEN:
        lines = [f"a file could not be written, perhaps the disk is full: {lines[0]}"]
    if status:
        room = "Free space, or set DHOX_REMOTE_CACHE on the board to a folder on another disk; then run"
        raise DhoxError(
            f"Copying from or to {connection.host} failed ({lines[0]}).",
            f"{room if status == NOT_WRITTEN else 'Run'} the same command again.",
        )
