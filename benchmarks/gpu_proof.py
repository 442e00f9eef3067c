"""All that only a GPU can show, in one command of at most nine minutes.

    make gpu-proof                  # gpu_proof.json, and the same as tables in gpu_proof.md
    make gpu-proof ARGS=--cpu       # the rehearsal: tiny sizes on a CPU, before the first GPU

Each part is a process of its own. One that fails, hangs or breaks the GPU's context leaves the others alone; what it
measured until then is kept, and the reason stands beside it. Exit code 3 where a part did not complete or an aim was
missed. Without a network, and without `.venv`: any Python with dhox's packages will do.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
if TYPE_CHECKING:
    from proof.record import Part, Row, Status

LIMIT = 540.0  # seconds of all parts
FEWEST = 10.0  # seconds that are worth beginning a part


@dataclass(frozen=True)
class Question:
    """What a part asks, and how many seconds it may take (a rehearsal: what is left)."""

    text: str
    seconds: float


QUESTIONS = {
    "gpu-tests": Question("Do the tests marked gpu pass, all of them?", 110),
    "throughput-resnet18": Question("Training: how near to the bound, how far from the reference scheme?", 110),
    "latency": Question("Exported students: which runtime, how fast, and what does dhox's runner add?", 130),
    "energy": Question("Does the energy counter agree with power integrated over time?", 25),
    "resumed": Question("Does a resumed training end where an unbroken one does?", 60),
    "throughput-efficientnet_lite0": Question("The same for EfficientNet-Lite0", 90),
    "throughput-vit": Question("The same for ViT-B/16 with the teacher ViT-H-14-378", 110),
}


def rows_of(name: str) -> Callable[[bool], Iterator[Row]]:
    """What measures a part."""
    from proof import energy, gpu_tests, latency, resumed, throughput

    kind, _, student = name.partition("-")
    if kind == "throughput":
        return partial(throughput.rows, student)
    return {"gpu": gpu_tests, "latency": latency, "energy": energy, "resumed": resumed}[kind].rows


def run_here(name: str, tiny: bool, file: Path) -> None:
    """Measure a part in this process, a line of JSON per row as it comes."""
    import msgspec

    with file.open("ab") as out:
        for row in rows_of(name)(tiny):
            out.write(msgspec.json.encode(row) + b"\n")
            out.flush()


def run_apart(name: str, question: Question, tiny: bool, seconds: float) -> Part:
    """Measure a part in a process of its own, for at most so many seconds."""
    import msgspec
    from proof.record import Part, Row

    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder, "rows"), Path(folder, "log")
        file.touch()
        status: Status
        command = [sys.executable, __file__, "--part", name, "--rows", str(file), *["--cpu"] * tiny]
        start = time.perf_counter()
        with log.open("wb") as out:
            child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True)
            try:
                status, reason = ("complete", "") if child.wait(seconds) == 0 else ("failed", "")
            except subprocess.TimeoutExpired:
                status, reason = "out of time", f"its share is {seconds:.0f} s"
            finally:
                stop(child)
        if status == "failed":
            lines = log.read_text(errors="replace").strip().splitlines()
            reason = f"exit {child.returncode}: {lines[-1] if lines else 'it said nothing'}"
            print("\n".join(lines[-20:]))
        rows = [msgspec.json.decode(line, type=Row) for line in file.read_bytes().splitlines()]
    spent = time.perf_counter() - start
    return Part(name=name, question=question.text, status=status, seconds=spent, rows=rows, reason=reason)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def prove(tiny: bool, only: list[str], limit: float) -> list[Part]:
    """All parts in turn, while there is time."""
    from proof.record import Part

    began, parts = time.perf_counter(), []
    for name, question in QUESTIONS.items():
        if only and name not in only:
            continue
        left = limit - (time.perf_counter() - began)
        print(f"== {name}: {question.text}", flush=True)
        if left < FEWEST:
            reason = f"the {limit:.0f} s of all parts were over"
            parts.append(Part(name=name, question=question.text, status="not run", seconds=0, rows=[], reason=reason))
        else:
            parts.append(run_apart(name, question, tiny, left if tiny else min(left, question.seconds)))
        done = parts[-1]
        print(f"   {done.status}, {len(done.rows)} rows, {done.seconds:.0f} s {done.reason}", flush=True)
    return parts


def write_proof(parts: list[Part], tiny: bool, out: Path, conditions: object, seconds: float) -> bool:
    """Write both files; whether every part completed and every aim was reached."""
    import msgspec
    import torch
    from proof.record import Proof, markdown

    from dhox.bench.sensors.nvml import gpu_card
    from dhox.system.environment import now, versions
    from dhox.system.machine import device_card

    proof = Proof(
        schema="dhox.gpu-proof/1", finished_at=now(), rehearsal=tiny, machine=device_card(None if tiny else gpu_card()),
        cuda=torch.version.cuda, environment=versions(), conditions=conditions, seconds=seconds, parts=parts,  # type: ignore[arg-type]
    )  # fmt: skip
    (out / "gpu_proof.json").write_bytes(msgspec.json.format(msgspec.json.encode(proof), indent=2))
    (out / "gpu_proof.md").write_text(markdown(proof), encoding="utf-8")
    print(markdown(proof))
    print(f"{out / 'gpu_proof.json'}, {out / 'gpu_proof.md'}")
    return all(part.status == "complete" and all(row.held in (None, True) for row in part.rows) for part in parts)


def find_dhox() -> None:
    """Make this checkout importable, for this process and all that it starts, where dhox is not installed."""
    try:
        import dhox  # noqa: F401
    except ImportError:
        package = ROOT / "build/gpu-proof/dhox"
        package.mkdir(parents=True, exist_ok=True)
        for source in [*(ROOT / "src/dhox").iterdir(), *(ROOT / name for name in ("distill", "export", "bench"))]:
            if not (package / source.name).exists():
                (package / source.name).symlink_to(source)
        sys.path.insert(0, str(package.parent))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="rehearse on the CPU with tiny sizes")
    parser.add_argument("--only", action="append", default=[], choices=QUESTIONS, help="repeatable; by default all")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of all parts")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the two files")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    find_dhox()
    if options.part:
        run_here(options.part, options.cpu, options.rows)
        return
    import torch

    from dhox.bench.sensors.conditions import ConditionsWatch

    if not options.cpu and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device here. Rehearse on the CPU: make gpu-proof ARGS=--cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with ConditionsWatch("cpu" if options.cpu else "cuda") as watch:
        parts = prove(options.cpu, options.only, options.limit)
    if not write_proof(parts, options.cpu, options.out, watch.summary(), time.perf_counter() - began):
        sys.exit(3)


if __name__ == "__main__":
    main()
