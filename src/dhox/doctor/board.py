"""`dhox doctor --host`: a board over ssh."""

from __future__ import annotations

from dataclasses import dataclass

from dhox.artefacts.remote import Probe
from dhox.bench.remote.answers import read_answer
from dhox.bench.remote.board_environment import environment_of
from dhox.bench.remote.link import Board
from dhox.bench.remote.run import Output
from dhox.doctor.backends import Finding
from dhox.errors import DhoxError


@dataclass(frozen=True)
class BoardReport:
    """What a board is, and what `dhox doctor` finds there once a bench prepared it; else `note` says why not."""

    host: str
    probe: Probe
    findings: list[Finding] | None
    note: str | None


def examine_board(host: str, python: str = "python3") -> BoardReport:
    """What a board is and can do. Raises DhoxError as `dhox.bench.remote.run.bench_remote` does."""
    with Board(host, python) as board:
        probe = board.probe()
        if not probe.environment:
            return BoardReport(host, probe, None, _not_prepared(probe))
        status, written, said = _dhox_there(board, probe, "--json")
    try:
        return BoardReport(host, probe, read_answer(written, list[Finding]), None)
    except ValueError:
        reason = (said.strip() or f"status {status}").splitlines()[-1]
        return BoardReport(
            host, probe, None, f"dhox there does not run ({reason}): `dhox bench --host` copies it again"
        )


def restore_board(host: str, python: str = "python3") -> None:
    """`dhox doctor --restore-power-mode` on a board: what a killed bench there left behind. Raises DhoxError."""
    with Board(host, python) as board:
        probe = board.probe()
        if not probe.environment:
            raise DhoxError(f"{host} is not prepared yet for its Python.", _not_prepared(probe))
        status, written, said = _dhox_there(board, probe, "--restore-power-mode")
    show = Output()
    for line in [*written.decode(errors="replace").splitlines(), *said.splitlines()]:
        show(line)
    if status:
        raise show.failure(host, status)


def _dhox_there(board: Board, probe: Probe, option: str) -> tuple[int, bytes, str]:
    """`dhox doctor` with the packages that the last bench brought there: its status, what it wrote, and its errors."""
    return board.look(
        [probe.python.path, "-m", "dhox", "doctor", option], environment_of(probe.store, probe.environment)
    )


def _not_prepared(probe: Probe) -> str:
    """What to do before dhox runs with this Python of the board."""
    version = "{}.{}".format(*probe.python.version)
    return f"not prepared yet for its Python {version}: the first `dhox bench --host` copies what dhox needs there"
