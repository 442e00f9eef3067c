"""samples.npz of a bench: every timed call, and power over time; the names of its arrays are those in bench.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dhox.artefacts.arrays import Array, mismatch, read_npz, write_npz
from dhox.artefacts.bench import Bench
from dhox.artefacts.bench_latency import Key
from dhox.errors import DhoxError

SAMPLES_FILE = "samples.npz"
RESTORE = "Copy it again from where the bench was measured, or delete it (bench.json has the intervals)."


@dataclass(frozen=True)
class Calls:
    """Times of one (model, runner, batch, scope): int64 nanoseconds per call, an array per round; `started_s`: when
    each round began, float64 [rounds], seconds of the same clock."""

    rounds: Sequence[np.ndarray]
    started_s: np.ndarray


@dataclass(frozen=True)
class Trace:
    """Power of one energy row, float64: `watts` [n] at `seconds` [n], and the measured `window` [2] in seconds."""

    seconds: np.ndarray
    watts: np.ndarray
    window: np.ndarray


@dataclass(frozen=True)
class Samples:
    """The raw samples of a bench; `traces` by the `trace` of energy rows."""

    calls: dict[Key, Calls]
    traces: dict[str, Trace]


ARRAYS = {
    "": Array("int64", "T", low=0),
    "_rounds": Array("int64", "R", low=1),
    "_started_s": Array("float64", "R"),
    "_seconds": Array("float64", "N"),
    "_watts": Array("float64", "N"),
    "_window": Array("float64", "2"),
}


def samples_name(*parts: str | int) -> str:
    """The name of a row's arrays; no two rows share one, and none has the slash of a folder."""
    return "_".join(str(part) for part in parts).replace("%", "%25").replace("/", "%2F")


def write_samples(path: Path, samples: Samples) -> None:
    """Write samples.npz atomically."""
    arrays: dict[str, np.ndarray] = {}
    for key, calls in samples.calls.items():
        name = samples_name(*key)
        arrays[name] = np.concatenate(list(calls.rounds))
        arrays[f"{name}_rounds"] = np.array([len(times) for times in calls.rounds], np.int64)
        arrays[f"{name}_started_s"] = np.asarray(calls.started_s, np.float64)
    for name, trace in samples.traces.items():
        arrays |= {f"{name}_seconds": trace.seconds, f"{name}_watts": trace.watts, f"{name}_window": trace.window}
    write_npz(path, arrays)


def read_samples(path: Path, bench: Bench) -> Samples | None:
    """The samples of a bench's rows; None where the file is missing. Raises DhoxError where it is not this bench's."""
    if not path.exists():
        return None
    try:
        stored = read_npz(path)
    except DhoxError as err:
        raise DhoxError(err.reason, RESTORE) from err
    calls = {row.key: _read_calls(path, stored, row.samples, row.n) for row in bench.latency}
    parts = ("_seconds", "_watts", "_window")
    traces = {row.trace: Trace(*taken(path, stored, row.trace, parts)) for row in bench.energy.rows}
    return Samples(calls, traces)


def _read_calls(path: Path, stored: dict[str, np.ndarray], name: str, n: int) -> Calls:
    """The calls of one latency row, `n` by bench.json."""
    times, rounds, started_s = taken(path, stored, name, ("", "_rounds", "_started_s"))
    if rounds.sum() != len(times) or len(times) != n:
        raise DhoxError(
            f"{path}: {name} holds {len(times)} calls, {n} were expected, in {len(rounds)} rounds.", RESTORE
        )
    return Calls(np.split(times, np.cumsum(rounds)[:-1]), started_s)


def taken(path: Path, stored: dict[str, np.ndarray], name: str, endings: tuple[str, ...]) -> list[np.ndarray]:
    """The arrays NAME + ending, checked."""
    known: dict[str, int] = {}
    for ending in endings:
        if name + ending not in stored:
            raise DhoxError(f"{path} has no array {name + ending}: it belongs to another bench.", RESTORE)
        problem = mismatch(stored[name + ending], ARRAYS[ending], known)
        if problem is not None:
            raise DhoxError(f"{path}: the array {name + ending} {problem}.", RESTORE)
    return [stored[name + ending] for ending in endings]
