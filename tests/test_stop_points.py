"""Stopped at any of its file operations, a command can be run again, and nothing finished is lost (make test-slow)."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
import torchvision
from conftest import CLASSES, DEMO, write_data
from stop_points import WORKERS, Case, Forks, copy_of, stop_everywhere

from dhox.artefacts.audit import Audit
from dhox.artefacts.bench import Bench
from dhox.artefacts.comparison import Comparison
from dhox.artefacts.files import AUDIT_FILE, AUDIT_SCHEMA, SWEEP_FILE, SWEEP_SCHEMA, TEMPORARY, settle, sha256
from dhox.artefacts.record import read_record
from dhox.artefacts.run_directory import open_run
from dhox.artefacts.samples import read_samples
from dhox.artefacts.sweep import Sweep
from dhox.distill.teachers.cache_upkeep import entries
from dhox.export.integrations.emit import Emitted
from dhox.models.export_directory import open_export
from dhox.models.verify import verify
from dhox.reports.pages.bench import read_bench
from dhox.reports.pages.run import write_report

pytestmark = pytest.mark.slow

TEACHER = ["--teacher", f"local-dir:{DEMO / 'teacher'}"]


def bytes_of(folder: Path, *names: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names]


def whole_run(folder: Path, name: str = "run") -> list[bytes]:
    opened = open_run(folder / name)
    names = [name for name in ("test.npz", "metrics.csv") if opened.test is not None]
    assert (opened.metrics is None) == (opened.run.training is None)
    return bytes_of(folder / name, "student.safetensors", "val.npz", "selection.json", *names)


def whole_comparison(folder: Path) -> object:
    rows = read_record(folder / "comparison/comparison.json", Comparison).rows
    runs = [open_run(folder / f"comparison/ce-{seed}").path for seed in (0, 1)]
    return rows, [bytes_of(run, "student.safetensors", "val.npz", "test.npz") for run in runs]


def whole_cache(folder: Path, name: str = "own-cache") -> object:
    assert not any(entry.damaged for entry in entries(folder / name, checksums=True))
    files = sorted((folder / name).rglob("*.safetensors"))
    return [(path.relative_to(folder), path.read_bytes()) for path in files if not TEMPORARY.fullmatch(path.name)]


def whole_audit(folder: Path) -> object:
    settle(folder / "audit", AUDIT_FILE, AUDIT_SCHEMA)  # no command reads it
    return msgspec.structs.replace(read_record(folder / "audit/audit.json", Audit), finished_at="then")


def whole_report(folder: Path) -> object:
    assert (folder / "run/report.html").read_text().rstrip().endswith("</html>")
    return whole_run(folder)


def whole_export(folder: Path, name: str = "export") -> list[bytes]:
    export = open_export(folder / name)
    for entry in export.manifest.artefacts:
        export.model(entry)
    assert verify(folder / name, "cpu")
    return bytes_of(folder / name, *sorted(export.manifest.files), *(one.file for one in export.manifest.artefacts))


def whole_candidates(folder: Path) -> list[bytes]:
    (candidate,) = (folder / "candidates").iterdir()
    return whole_export(folder / "candidates", candidate.name)


def whole_emitted(folder: Path, name: str = "export") -> object:
    files = {path: read_record(path, Emitted).files for path in sorted((folder / name).glob("*/emit.json"))}
    assert all(sha256(path.parent / name) == hashed for path, of in files.items() for name, hashed in of.items())
    return list(files.values())


def whole_bench(folder: Path, name: str = "bench") -> object:
    bench, beside = read_bench(write_report(folder / name).parent)
    assert bench.status == "complete"
    assert beside.samples is not None
    return list(beside.samples.calls), bytes_of(folder / name, "predictions.csv")


def whole_sweep(folder: Path) -> object:
    settle(folder / "sweep", SWEEP_FILE, SWEEP_SCHEMA)  # no command reads it
    swept = read_record(folder / "sweep/sweep.json", Sweep)
    assert swept.status == "complete"
    bench = read_record(folder / "sweep/bench/bench.json", Bench)
    assert read_samples(folder / "sweep/bench/samples.npz", bench) is not None
    return [row.student for row in swept.rows]


def distill(*more: str) -> list[str]:
    return [
        "distill", "DATA", *TEACHER, "--student", "test_resnet", "--student-weights", "none", "--image-size", "28",
        "--epochs", "2", "--shots", "4", "--views", "2", "--batch-labelled", "16", "--batch-unlabelled", "64",
        "--workers", "0", "--out", "run", *more,
    ]  # fmt: skip


EXPORT = ["export", "run", "--fp16", "--out", "export"]
RETUNE = ["retune", "export", "--out", "retuned"]
BENCH = ["bench", "export", "--duration", "0.05", "--energy", "0", "--batch", "1", "--scope", "e2e", "--out", "bench"]
CANDIDATES = ["sweep", "--students", "test_resnet", "--image-size", "28", "--candidates", "candidates"]
SWEEP = [*CANDIDATES, "--duration", "0.05", "--energy", "0", "--out", "sweep"]
CACHE = ["cache", "DATA", *TEACHER, "--cache", "own-cache", "--views", "2", "--packed-size", "28"]
AUDIT = ["audit", "DATA", *TEACHER, "--out", "audit"]
IMPORT = [
    "import-dho", "authors/mobilenetv2.pt", "--arch", "mobilenetv2", "--classes", "authors/classes.txt", "--data",
    "authors/data", "--workers", "0", "--out", "imported",
]  # fmt: skip

CASES = {
    "distill --resume": Case(distill("--resume"), (), whole_run),
    "distill --overwrite": Case(distill("--overwrite", "--seed", "1"), ("run", "cache"), whole_run, replaces=True),
    "distill --method ce --seeds 2": Case(
        distill("--method", "ce", "--seeds", "2", "--epochs", "1", "--out", "comparison"), ("cache",), whole_comparison
    ),
    "cache": Case(CACHE, (), whole_cache),
    "cache --repair": Case(
        ["cache", "--repair", "damaged-cache"], ("damaged-cache",), partial(whole_cache, name="damaged-cache")
    ),
    "audit": Case(AUDIT, (), whole_audit),
    "audit --overwrite": Case([*AUDIT, "--shots", "4", "--overwrite"], ("audit",), whole_audit, replaces=True),
    "import-dho": Case(IMPORT, ("authors",), partial(whole_run, name="imported")),
    "import-dho --overwrite": Case(
        [*IMPORT, "--alpha", "0.3", "--overwrite"],
        ("authors", "imported"),
        partial(whole_run, name="imported"),
        replaces=True,
    ),
    "retune RUN": Case(["retune", "run", "--metric", "balanced"], ("run",), whole_run),
    "report": Case(["report", "run"], ("run",), whole_report),
    "export": Case(EXPORT, ("run",), whole_export),
    "export --overwrite": Case(
        ["export", "run", "--fold-rule", "exact", "--out", "export", "--overwrite"],
        ("run", "export"),
        whole_export,
        replaces=True,
    ),
    "export --emit": Case(["export", "export", "--emit", "triton"], ("export",), whole_emitted),
    "export --emit, again": Case(
        ["export", "emitted", "--emit", "triton"], ("emitted",), partial(whole_emitted, name="emitted")
    ),
    "retune EXPORT": Case(RETUNE, ("export",), partial(whole_export, name="retuned")),
    "retune EXPORT --overwrite": Case(
        [*RETUNE, "--alpha", "0.3", "--beta", "0.5", "--overwrite"],
        ("export", "retuned"),
        partial(whole_export, name="retuned"),
        replaces=True,
    ),
    "bench": Case(BENCH, ("export",), whole_bench),
    "bench --overwrite": Case([*BENCH, "--overwrite"], ("export", "bench"), whole_bench, replaces=True),
    "sweep": Case(SWEEP, ("candidates",), whole_sweep),
    "sweep --overwrite": Case([*SWEEP, "--overwrite"], ("candidates", "sweep"), whole_sweep, replaces=True),
    "sweep --export-only": Case([*CANDIDATES, "--export-only"], (), whole_candidates),
}


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Forks]]:
    logs = tmp_path_factory.mktemp("logs")
    started = [Forks(logs / f"{number}.txt") for number in range(WORKERS)]
    yield started
    for forks in started:
        forks.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, workers: list[Forks]) -> Path:
    """data/, and made/ with the finished output of every stage."""
    root = tmp_path_factory.mktemp("stop")
    write_data(root / "data")
    made = root / "made"
    write_authors_checkpoint(made / "authors", root / "data")
    for command in (distill(), EXPORT, RETUNE, BENCH, SWEEP, AUDIT, IMPORT, CACHE):
        workers[0].done(made, command)
    shutil.copytree(made / "own-cache", made / "damaged-cache")
    for path in sorted((made / "damaged-cache").rglob("*.safetensors"))[::2]:
        path.write_bytes(path.read_bytes()[:-1])
    shutil.copytree(made / "export", made / "emitted")
    workers[0].done(made, ["export", "emitted", "--emit", "triton"])
    return made


def shapes(folder: Path) -> set[tuple[str, int | None]]:
    """Names and sizes of all files, without the process's number, and for JSON without the size: it holds the time."""
    found = ((re.sub(r"\.\d+\.tmp$", "", str(path.relative_to(folder))), path) for path in folder.rglob("*"))
    return {(name, None if ".json" in name or path.is_dir() else path.stat().st_size) for name, path in found}


def write_authors_checkpoint(folder: Path, data: Path) -> None:
    """FOLDER/mobilenetv2.pt as the DHO authors' code writes it, with its class list and two images of each class."""
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(*[*torchvision.models.mobilenet_v2().children()][:-1])
    state = {f"backbone.{name}": part for name, part in backbone.state_dict().items()}
    for head in ("ce_head", "kd_head"):
        state |= {
            f"{head}.weight": torch.randn(len(CLASSES), 1280),
            f"{head}.bias": torch.zeros(len(CLASSES)),
        }
    for name in CLASSES:
        (folder / "data/val" / name).mkdir(parents=True)
        for image in sorted((data / "val" / name).iterdir())[:2]:
            shutil.copy(image, folder / "data/val" / name)
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    torch.save(state, folder / "mobilenetv2.pt")


@pytest.mark.parametrize("name", CASES)
def test_stopped_at_every_point(
    name: str, made: Path, workers: list[Forks], capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    points, states = stop_everywhere(CASES[name], made, workers, made.parent)
    with capsys.disabled():
        print(f"\ndhox {name}: {points} stop points, {states} states, {time.monotonic() - start:.0f} s")


def test_a_killed_process_leaves_what_a_copy_of_that_moment_holds(made: Path, workers: list[Forks]) -> None:
    copies = copy_of(made, (), made.parent / "copies")
    points = workers[0].done(copy_of(made, ("export",), made.parent / "whole"), RETUNE, copies).points
    for number in range(1, len(points) + 1):
        folder = copy_of(made, ("export",), made.parent / "0")
        killed = workers[0].run(folder, RETUNE, stop=number)
        assert killed.signal == signal.SIGKILL, killed
        assert shapes(folder) == shapes(copies / str(number)), points[number - 1]
