"""Cross-check with NVIDIA's trtexec: the same engine, its exported times, our statistics.

trtexec's defaults differ by major version (from 11.0 on: CUDA graph and spinning waits on, transfers off), and it ends
at a flag that it does not know. So every flag is given by version, and only its raw times (--exportTimes) are read.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dhox.artefacts.bench import NotRun
from dhox.artefacts.bench_latency import CrossCheck, Key
from dhox.bench.cells import Opened, TimedImages
from dhox.bench.latency_statistics import UNSTABLE_CV
from dhox.bench.results import Found
from dhox.console import say
from dhox.errors import DhoxError
from dhox.evidence.statistics import percentile
from dhox.models.engines import read_sidecar

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")  # JetPack's and the containers'
FIELDS = ("computeMs", "latencyMs", "h2dMs", "d2hMs")
# scope -> major version -> flags; GRAPH is added where our runner captured one, NO_GRAPH where not
MODES: dict[str, dict[int, list[str]]] = {
    "device": {10: ["--useSpinWait", "--noDataTransfers"], 11: []},
    "e2e": {10: ["--useSpinWait"], 11: ["--includeDataTransfers"]},
}
GRAPH: dict[int, list[str]] = {10: ["--useCudaGraph"], 11: []}
NO_GRAPH: dict[int, list[str]] = {10: [], 11: ["--noCudaGraph"]}
COMPARED = {"device": "computeMs", "e2e": "latencyMs"}
MEANINGS = {
    "device": (
        "trtexec: GPU compute time by CUDA events, no transfers; ours: host clock around a synchronised call, so the "
        "launch and the wait come on top"
    ),
    "e2e": (
        "trtexec: copies and compute by CUDA events, the next inference enqueued ahead; ours: pixels in host memory to "
        "probabilities there by the host clock, so preparing the input and softmax come on top"
    ),
}


def find_trtexec() -> Path | None:
    """trtexec on PATH or where TensorRT's packages put it; None where there is none."""
    found = shutil.which("trtexec")
    candidates = [Path(found)] if found else [Path(place) for place in PLACES]
    return next((path for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)


@dataclass(frozen=True)
class CheckedEngine:
    """An engine for trtexec, which can run its code: only one that this user trusts.

    `shapes`: INPUT:BxHxWxC, None where the engine takes one batch size alone; `graph`: whether our runner replays a
    CUDA graph, as trtexec then does too; `version_compatible`, `dla`: as it was built, for trtexec must be told.
    """

    plan: Path
    shapes: str | None
    graph: bool = False
    version_compatible: bool = False
    dla: int | None = None

    def loading(self) -> list[str]:
        """The flags that load it."""
        flags = [f"--loadEngine={self.plan}"]
        flags += ["--versionCompatible"] if self.version_compatible else []
        flags += [] if self.dla is None else [f"--useDLACore={self.dla}"]
        return [*flags, f"--shapes={self.shapes}"] if self.shapes else flags


def trtexec_checks(models: list[Opened], batch: int, images: TimedImages, found: Found) -> None:
    """Every engine of a batch size, if trtexec is on this machine; what fails goes to `not_run`."""
    tool = find_trtexec()
    for one in models:
        name, runner = one.model.name, one.runner.name
        plan = one.runner.facts.engine
        if tool is None or plan is None:
            continue
        ours_ms = {
            key: percentile(np.concatenate(timed.rounds), 50) / 1e6
            for key, timed in found.timed.items()
            if key[:3] == (name, runner, batch) and timed.rounds
        }
        say(f"trtexec: {name} by {runner}, batch {batch}")
        try:
            engine = _checked_engine(one, Path(plan), batch, images)
            found.cross_checks += cross_check_trtexec(engine, ours_ms, tool)
        except DhoxError as err:
            found.not_run.append(NotRun(what="trtexec", model=name, runner=runner, batch=batch, reason=str(err)))


def _checked_engine(one: Opened, plan: Path, batch: int, images: TimedImages) -> CheckedEngine:
    """The engine behind a runner. Raises DhoxError where TensorRT's trtexec cannot load it."""
    sidecar = read_sidecar(plan.parent)
    if sidecar.tensorrt.flavour != "tensorrt":
        raise DhoxError(
            "TensorRT-RTX built this engine, and trtexec loads TensorRT's.", "Build one with TensorRT for it."
        )
    shape = (batch, *one.model.tensors.graph_input(images.pixels(one.model, 1)).shape[1:])
    shapes = f"{one.model.input_name}:{'x'.join(map(str, shape))}" if one.model.fixed_batch is None else None
    options = sidecar.options
    return CheckedEngine(plan, shapes, one.runner.facts.graph, options.version_compatible, options.dla)


def cross_check_trtexec(
    engine: CheckedEngine, ours_ms: dict[Key, float], tool: Path, duration_s: float = 3.0
) -> list[CrossCheck]:
    """trtexec's medians of an engine beside ours, for the scopes that it measures too (device, e2e).

    One run of theirs beside our rounds is no pair, so the differences have no interval. Raises DhoxError where trtexec
    fails.
    """
    major, version = trtexec_version(tool)
    found = []
    for key, ours in ours_ms.items():
        if key.scope not in MODES:
            continue
        with tempfile.TemporaryDirectory(prefix="dhox-trtexec-") as folder:
            times_file = Path(folder) / "times.json"
            arguments = trtexec_arguments(major, key.scope, engine, times_file, duration_s)
            _run_trtexec(tool, arguments, 120 + 10 * duration_s)
            if not times_file.exists():
                raise DhoxError(f"{tool} wrote no times.", _by_hand(tool, arguments))
            times = parse_times(times_file.read_text(encoding="utf-8"))[COMPARED[key.scope]]
        theirs = percentile(times, 50)
        found.append(
            CrossCheck(
                **key._asdict(), version=version, field=COMPARED[key.scope], graph=engine.graph, theirs_ms=theirs,
                ours_ms=ours, difference_percent=100 * (theirs / ours - 1), p99_ms=percentile(times, 99),
                n=len(times), unstable=bool(times.std() / times.mean() > UNSTABLE_CV),
                arguments=[argument for argument in arguments if not argument.startswith("--exportTimes")],
                note=MEANINGS[key.scope],
            )
        )  # fmt: skip
    return found


def trtexec_version(trtexec: Path) -> tuple[int, str]:
    """Major version and version as printed: `[TensorRT v100300]` is 10.3.0, `v8602` is 8.6.2. Raises DhoxError.

    trtexec prints its banner whatever it is asked, so --help tells it without a GPU.
    """
    banner = re.search(r"TensorRT(?:-RTX)? v(\d+)", _run_trtexec(trtexec, ["--help"], 60))
    if banner is None:
        raise DhoxError(f"{trtexec} does not print its TensorRT version.", "Check that it is TensorRT's trtexec.")
    number = int(banner[1])
    # Four digits up to TensorRT 9 (8602), two per part after the major from 10 on (100300).
    parts = (number // 10000, number // 100 % 100, number % 100)
    if number < 10000:
        parts = (number // 1000, number // 100 % 10, number % 100)
    return parts[0], ".".join(map(str, parts))


def trtexec_arguments(major: int, scope: str, engine: CheckedEngine, times: Path, duration_s: float = 3.0) -> list[str]:
    """The command line that measures a scope by the same meaning in every major version.

    Raises DhoxError for versions before 10, whose flags are other ones, and for later ones than known.
    """
    if major not in MODES[scope]:
        raise DhoxError(
            f"trtexec of TensorRT {major} takes other flags than those of 10 and 11.",
            "Put trtexec of 10 or 11 on PATH, or bench without it.",
        )
    return [
        *engine.loading(),
        "--warmUp=500",
        f"--duration={max(1, round(duration_s))}",
        "--iterations=100",
        f"--exportTimes={times}",
        *MODES[scope][major],
        *(GRAPH if engine.graph else NO_GRAPH)[major],
    ]


def _by_hand(trtexec: Path, arguments: list[str]) -> str:
    return f"Run it by hand: {shlex.join([str(trtexec), *arguments])}"


def _run_trtexec(trtexec: Path, arguments: list[str], limit_s: float) -> str:
    """Everything that trtexec prints. Raises DhoxError where it fails or hangs."""
    try:
        done = subprocess.run(
            [str(trtexec), *arguments], capture_output=True, text=True, errors="replace", check=False, timeout=limit_s
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise DhoxError(f"{trtexec} did not run ({err}).", "Run it by hand, or bench without it.") from err
    printed = done.stdout + done.stderr
    if done.returncode != 0 and arguments != ["--help"]:
        errors = [line for line in printed.splitlines() if "[E]" in line or "Unknown option" in line]
        last = (errors or printed.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise DhoxError(f"{trtexec} failed: {last.strip()}.", _by_hand(trtexec, arguments))
    return printed


def parse_times(text: str) -> dict[str, np.ndarray]:
    """The FIELDS of an --exportTimes file, float64 [n] in ms. Raises DhoxError for another file."""
    try:
        entries = json.loads(text)
        times = {field: np.array([float(entry[field]) for entry in entries]) for field in FIELDS}
        good = len(entries) > 0 and all(np.isfinite(values).all() for values in times.values())
    except (ValueError, KeyError, TypeError) as err:
        raise DhoxError(
            f"trtexec's times are not as --exportTimes writes them ({err!r}).", "Report trtexec's version."
        ) from err
    if not good:
        raise DhoxError("trtexec exported no times.", "Run it by hand with a longer --duration.")
    return times
