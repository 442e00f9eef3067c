"""Choosing a student: budgets, the Pareto front, accuracies of finished runs, and a sweep of real untrained students."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from bench_example import example
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from refusals import refuses
from test_architecture import BOARD

from dhox.artefacts.bench import Bench
from dhox.artefacts.bench_latency import LatencyMs
from dhox.artefacts.common import ClassEntry
from dhox.artefacts.record import read_record, write_record
from dhox.artefacts.run import Run
from dhox.artefacts.sweep import Front, KnownAccuracy, Sweep, SweepRow
from dhox.bench.bench_models import open_models
from dhox.bench.sweep import candidates
from dhox.bench.sweep.candidates import candidate_folder, prepare
from dhox.bench.sweep.choose import choose, fronts, pareto_front
from dhox.bench.sweep.footprint import measure_footprint
from dhox.bench.sweep.known_accuracy import accuracy_of, finished_runs
from dhox.bench.sweep.options import SweepOptions, parse_budget
from dhox.bench.sweep.run import measure_all, sweep, with_footprints
from dhox.cli.main import main
from dhox.console import console
from dhox.errors import StoppedError, UsageError
from dhox.models.classifier import load
from dhox.models.export_directory import open_export
from dhox.options.declare import build
from dhox.reports.pages.sweep import sweep_page
from dhox.reports.terminal import show
from dhox.runtimes.onnxruntime_api import why_not

SIDE = 32


def row(
    student: str, ms: float, parameters: float = 1e6, accuracy: float | None = None, n: int = 1000, method: str = "dho"
) -> SweepRow:
    known = None
    if accuracy is not None:
        known = KnownAccuracy(
            accuracy=accuracy, interval=(accuracy - 0.02, accuracy + 0.02), n=n, split="test", data="d", method=method,
            what="w", run="r",
        )  # fmt: skip
    times = dict.fromkeys(("p50", "p90", "p95", "p99", "max", "min", "mean"), float(ms))
    return SweepRow(
        student=student, image_size=224, parameters=int(parameters), bytes=1, latency_ms=LatencyMs(**times, mad=0.0),
        p50_interval=(0.9 * ms, 1.1 * ms), p99_interval=None, images_per_s=1000 / ms, flags=[], emulated=None,
        runner="onnxruntime", mj_per_image=None, net_mj_per_image=None, accuracy=known,
    )  # fmt: skip


def read_sweep() -> Sweep:
    return read_record(Path("swept/sweep.json"), Sweep)


def swept(*students: str, **options: Any) -> Sweep:
    """A short sweep on the CPU; its directory is `swept`, unless `out` names another."""
    own = {"device": "cpu", "duration": 0.05, "out": Path("swept"), "students": ",".join(students) or None}
    return sweep(build(SweepOptions, **{k: v for k, v in (own | options).items() if v is not None})).sweep


# -- plain functions


@pytest.mark.parametrize(
    ("text", "ms"),
    [("5ms", 5), ("0.5 ms", 0.5), ("200us", 0.2), ("200µs", 0.2), ("2s", 2000), (" .5s ", 500), ("3.ms", 3)],
)
def test_budgets(text: str, ms: float) -> None:
    assert parse_budget(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["5", "ms", "0ms", "-1ms", "5 m", "1e3ms", "5ms5", "nan ms", "", "9" * 400 + "ms"])
def test_what_no_budget_is(text: str) -> None:
    with refuses(f"--budget {text}", at="bench.sweep.options.parse_budget", kind=UsageError):
        parse_budget(text)


POINTS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12)


@given(POINTS)
def test_the_front_is_exactly_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    front = set(pareto_front(points))

    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    for place, point in enumerate(points):
        if place in front:
            assert not any(dominates(other, point) for other in points)
        else:
            assert any(dominates(points[other], point) for other in front)  # by one of the front, even
    assert bool(front) == bool(points)


@given(POINTS, st.randoms())
def test_the_front_does_not_depend_on_the_order_or_on_units(points: list[tuple[float, float]], random: Any) -> None:
    front = {points[place] for place in pareto_front(points)}
    shuffled = random.sample(points, len(points))
    assert {shuffled[place] for place in pareto_front(shuffled)} == front
    scaled = [(3 * cost, 2 * value + 1) for cost, value in points]
    assert pareto_front(scaled) == pareto_front(points)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.3, 0.9)), min_size=1, max_size=8), st.floats(0.1, 12))
def test_what_is_advised_fits_and_nothing_that_fits_is_more_accurate(
    values: list[tuple[float, float]], budget: float
) -> None:
    rows = [row(f"s{i}", ms, accuracy=accuracy) for i, (ms, accuracy) in enumerate(values)]
    choice = choose(rows, budget)
    fitting = {one.student: one.accuracy for one in rows if one.p50_interval[1] <= budget and one.accuracy}
    assert set(choice.within) == set(fitting)
    assert bool(choice.distill) == bool(fitting)
    for name in choice.distill:
        assert fitting[name].accuracy == max(one.accuracy for one in fitting.values())


def test_the_upper_end_of_the_interval_decides() -> None:
    rows = [row("edge", 5.0, accuracy=0.8)]
    assert choose(rows, 5.5).within == ["edge"]  # 1.1 x 5
    none = choose(rows, 5.49)
    assert (none.within, none.distill) == ([], [])
    assert "edge" in none.reasons[0]


def test_without_accuracies_none_is_invented() -> None:
    rows = [
        row("a", 1, 1e6),
        row("b", 2, 9e6),
        row("c", 3, 5e6),
        row("d", 4, 20e6),
        row("e", 5, 30e6),
        row("late", 50, 9e9),
    ]
    choice = choose(rows, 10)
    assert choice.distill == ["e", "d", "b"]  # c is slower and smaller than b
    assert choice.within == ["a", "b", "c", "d", "e"]
    assert "accuracy decides" in choice.reasons[1]
    assert fronts(rows) == Front([], ["a", "b", "d", "e", "late"])


def test_accuracies_on_other_images_are_not_compared() -> None:
    rows = [row("a", 1, accuracy=0.7), row("b", 2, accuracy=0.8), row("c", 3, accuracy=0.99, n=50), row("d", 4)]
    choice = choose(rows, 10)
    assert choice.distill == ["b"]
    assert "b is the most accurate: 80.0 %" in choice.reasons[0]
    assert "without an accuracy on the same images: c, d" in choice.reasons[-1]
    assert choose([row("a", 1, 1e6, 0.7), row("b", 2, 2e6), row("c", 3, 2e6)], 10).distill == ["a", "b"]
    rows = [row("a", 1, accuracy=0.7), row("b", 2, accuracy=0.8), row("c", 3, accuracy=0.9, method="ce")]
    assert choose(rows, 10).distill == ["b"]
    assert "the only one with a known accuracy" in choose([row("a", 1, accuracy=0.7)], 10).reasons[0]
    assert fronts(rows).accuracy == ["a", "b"]


def test_a_faster_student_that_is_not_told_apart_is_named() -> None:
    assert "not told apart" not in " ".join(choose([row("a", 1, accuracy=0.7), row("b", 2, accuracy=0.8)], 10).reasons)
    assert "a is faster (1 ms)" in choose([row("a", 1, accuracy=0.77), row("b", 2, accuracy=0.8)], 10).reasons[1]
    assert len(choose([row("a", 2, accuracy=0.77), row("b", 1, accuracy=0.8)], 10).reasons) == 1


# -- accuracies of finished runs


def test_accuracies_come_from_the_best_evidence_of_the_newest_run(own_line: Path) -> None:
    place = own_line / "runs/tiny"
    runs = finished_runs([own_line])
    assert [folder for folder, _ in runs] == [place]
    run = runs[0][1]
    assert accuracy_of(runs, "resnet18", 28, "fp32") is None
    assert accuracy_of(runs, "test_resnet", 32, "fp32") is None

    def known(runs: list[tuple[Path, Run]] = runs, precision: str = "fp16") -> KnownAccuracy:
        found = accuracy_of(runs, "test_resnet", 28, precision)
        assert found is not None
        return found

    bench = read_record(place / "bench/here/bench.json", Bench)
    (measured,) = [one for one in bench.accuracy.rows if one.precision == "fp16"]
    assert (known().split, known().n, known().accuracy) == ("test", 48, measured.accuracy)
    assert known().what == "the fp16 file, here"

    failed = [replace(one, passed=one.model != "fp16") for one in bench.golden]
    for unfit in ({"status": "interrupted"}, {"golden": failed}):
        write_record(place / "bench/here/bench.json", replace(bench, **unfit))
        assert known().what == "torch, stage dho"
    write_record(place / "bench/here/bench.json", bench)
    manifest = (place / "export/manifest.json").read_bytes()
    (place / "export/manifest.json").write_bytes(manifest + b" ")  # exported again since
    torch = known()
    (place / "export/manifest.json").write_bytes(manifest)
    (place / "bench/here/bench.json").unlink()
    assert known() == torch
    (dho,) = [one for one in run.test or [] if one.stage == "dho"]
    assert (torch.split, torch.accuracy, torch.what) == ("test", dho.accuracy, "torch, stage dho")

    untested = [(place, replace(run, test=None))]
    assert known(untested).split == open_export(place / "export").ledger().images

    later, baseline = place.with_name("later"), place.with_name("labels-only")
    later.mkdir()
    newer = replace(run, finished_at="9999", test=[replace(dho, accuracy=0.125)])
    write_record(later / "run.json", newer)
    newest = known(finished_runs([own_line]), "fp32")
    assert (newest.accuracy, newest.run) == (0.125, str(later))
    baseline.mkdir()
    alone = replace(
        run, finished_at="99999", method="ce", test=[replace(dho, stage="student", accuracy=0.25)],
        student=replace(run.student, two_heads=False),
    )  # fmt: skip
    write_record(baseline / "run.json", alone)
    assert known(finished_runs([own_line]), "fp32") == newest
    only = known(finished_runs([baseline]), "fp32")
    assert (only.method, only.accuracy) == ("ce", 0.25)
    with refuses("--runs", "nowhere", at="bench.sweep.known_accuracy.finished_runs"):
        finished_runs([own_line / "nowhere"])


# -- a sweep


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real students, exported once."""
    root = tmp_path_factory.mktemp("cache") / "candidates"
    found, failed = prepare(["test_resnet", "test_vit"], root, SIDE, 4, "fp32")
    assert failed == []
    assert [candidate.export for candidate in found] == [
        root / "test_resnet-32px-4c", root / "test_vit-32px-4c"
    ]  # fmt: skip
    return root


@pytest.mark.slow
def test_a_candidate_is_a_whole_export_with_finite_answers(cache: Path, line: Path) -> None:
    model = load(cache / "test_resnet-32px-4c", "cpu")
    probs = model(next((line / "data/test/bag").iterdir()))
    assert probs.shape == (1, 4)
    assert probs.sum() == pytest.approx(1, abs=1e-5)
    assert 0.25 < probs.max() < 0.99  # neither constant nor saturated
    manifest = open_export(cache / "test_resnet-32px-4c").manifest
    assert (manifest.run.method, manifest.student.name) == ("untrained", "test_resnet")


def test_a_sweep_measures_joins_and_chooses(cache: Path, own_line: Path, capsys: pytest.CaptureFixture) -> None:
    file = own_line / "runs/tiny/run.json"
    run = read_record(file, Run)
    preprocessing = replace(run.preprocessing, crop=SIDE, resize=SIDE)
    write_record(file, replace(run, student=replace(run.student, image_size=SIDE), preprocessing=preprocessing))
    words = f"sweep --students test_vit,test_resnet --candidates {cache} --image-size 32 --classes 4".split()
    words += ["--device", "cpu", "--duration", "0.05", "--runs", str(own_line), "--out", "swept"]
    with pytest.raises(SystemExit, match="^0$"):
        main([*words, "--budget", "10s"])
    said = " ".join(capsys.readouterr().out.split())
    found = read_sweep()
    rows = {one.student: one for one in found.rows}
    assert list(rows) == sorted(rows, key=lambda name: rows[name].latency_ms.p50)
    assert set(rows) == {"test_vit", "test_resnet"}
    assert found.failed == []
    for one in rows.values():
        assert one.p50_interval[0] <= one.latency_ms.p50 <= one.p50_interval[1]
        assert one.within is True
        assert 1e6 < (one.memory_bytes or 0) < 1e9
        assert 4 * one.parameters < one.bytes < 4.5 * one.parameters  # fp32
    known = rows["test_resnet"].accuracy
    assert known is not None
    assert known.split == "test"
    assert rows["test_vit"].accuracy is None
    assert found.choice is not None
    assert found.choice.distill == ["test_resnet"]
    assert "Next:" not in said  # it is trained already
    bench = read_record(Path("swept/bench/bench.json"), Bench)
    assert {one.scope for one in bench.latency} == {"e2e"}
    page = Path("swept/sweep.html").read_text()
    assert page.count("<svg") == 2
    start = page[page.index('<div class="verdict">') : page.index("<section")]
    assert start.count("<dt>") == 3
    assert "Distill " in start
    assert f"within {found.settings.budget_ms:g} ms" in start
    assert page.index("<h2>Against latency") < page.index("<h2>Students")
    assert "&lt;/" not in page  # no tag is shown
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons", ""
    )

    with pytest.raises(SystemExit, match="^3$"):
        main([*words, "--budget", "1us", "--overwrite"])
    said = " ".join(capsys.readouterr().err.split())
    assert "0.001 ms" in said
    assert "--image-size" in said
    choice = read_sweep().choice
    assert choice is not None
    assert choice.distill == []


def test_tables_fit_100_columns(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    options = build(SweepOptions, candidates=cache, device="cpu", duration=0.05, budget="1ms", out=Path("all"))
    found = sweep(options).sweep
    known = KnownAccuracy(
        accuracy=0.5, interval=(0.45, 0.55), n=3000, split="test", data="d", what="w", method="dho", run="r"
    )
    rows = [
        replace(
            row, student=f"vit_base_patch16_clip_quickgelu_224_{number}", accuracy=known, mj_per_image=123.4,
            memory_bytes=2_000_000_000, parameters=300_000_000, bytes=1_200_000_000, p50_interval=(0.0123, 0.0124),
            latency_ms=replace(row.latency_ms, p50=1234.5, p99=123.4),
        ) for number, row in enumerate(found.rows)
    ]  # fmt: skip
    front, chosen = Front(accuracy=[], parameters=[]), None
    wide = replace(found, rows=rows, front=front, choice=chosen)
    monkeypatch.setattr(console, "width", 100)
    capsys.readouterr()
    show(sweep_page(Path("all"), wide))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "".join(lines).count("50.0 (45.0-55.0)") == 2  # nothing is cut


def test_a_board_measures_what_was_exported_elsewhere(cache: Path) -> None:
    def board(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BOARD, "sweep", "--candidates", str(cache), "--device", "cpu", *words]
        return subprocess.run([*command, "--duration", "0.05"], capture_output=True, text=True, check=False)

    done = board("--budget", "10s", "--out", "swept")
    assert done.returncode == 0, done.stderr
    assert "No sweep.html: " in done.stdout
    assert {one.student for one in read_sweep().rows} == {"test_vit", "test_resnet"}
    done = board("--students", "resnet18")
    assert done.returncode == 1
    assert "--export-only" in done.stderr


def copied(cache: Path, root: Path, image_size: int, classes: int) -> Path:
    """The candidates of `cache`, beside test_resnet with another size or number of classes, by its manifest."""
    shutil.copytree(cache, root, dirs_exist_ok=True)
    folder = candidate_folder(root, "test_resnet", image_size, classes)
    shutil.copytree(cache / "test_resnet-32px-4c", folder)
    manifest = open_export(folder).manifest
    student = replace(manifest.student, image_size=image_size, classes=classes)
    names = [ClassEntry(i, f"c{i}", f"c{i}") for i in range(classes)]
    write_record(folder / "manifest.json", replace(manifest, student=student, classes=names))
    return root


@pytest.mark.slow
def test_a_cache_of_several_sizes_is_narrowed_or_refused(cache: Path, capsys: pytest.CaptureFixture) -> None:
    def names(image_size: int | None, classes: int | None) -> list[str]:
        return [one.export.name for one in candidates.all_cached(root, "fp32", image_size, classes)]

    both = ["test_resnet-32px-4c", "test_vit-32px-4c"]
    root = copied(cache, Path("sizes"), 64, 4)
    with refuses("sizes", "test_resnet", 32, 64, at="bench.sweep.candidates", fix="--image-size 32", kind=UsageError):
        names(None, None)
    assert names(32, None) == both
    assert names(64, 4) == ["test_resnet-64px-4c"]
    with refuses("sizes", 96, 4, at="bench.sweep.candidates", fix="--students", kind=UsageError):
        names(96, 4)
    root = copied(cache, Path("counts"), 32, 7)
    with refuses("counts", 4, 7, at="bench.sweep.candidates", fix="--classes 4", kind=UsageError):
        names(32, None)
    assert names(None, 4) == both
    shutil.copytree(cache / "test_vit-32px-4c", root / "test_vit-ownpx-4c")  # the same network twice
    assert [one.student for one in candidates.all_cached(root, "fp32", None, 4)] == ["test_resnet", "test_vit"]

    words = ["sweep", "--candidates", "sizes", "--image-size", "32", "--device", "cpu", "--duration", "0.05"]
    with pytest.raises(SystemExit, match="^0$"):
        main([*words, "--budget", "10s", "--out", "swept"])
    said = " ".join(capsys.readouterr().out.split())
    found = read_sweep()
    assert sorted(one.student for one in found.rows) == ["test_resnet", "test_vit"]
    assert {one.image_size for one in found.rows} == {32}
    assert found.settings.classes == 4
    assert found.choice is not None
    best = found.choice.distill[0]
    assert f"Next: dhox distill DATA --student {best} --image-size 32" in said


def test_the_command_after_an_export_finds_it(cache: Path, capsys: pytest.CaptureFixture) -> None:
    Path("my cache").symlink_to(cache)
    words = ["sweep", "--students", "test_vit", "--image-size", "32", "--classes", "4", "--candidates", "my cache"]
    with pytest.raises(SystemExit, match="^0$"):
        main([*words, "--export-only"])
    said = " ".join(capsys.readouterr().out.split())
    command = shlex.split(said.split("Next: ")[1])
    assert command[:2] == ["dhox", "sweep"]
    assert set(command[2:]) == {"--candidates=my cache", "--image-size=32", "--classes=4", "--budget=5ms"}


def test_a_candidate_is_exported_once_and_again_for_another_version(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = (cache / "test_vit-32px-4c/manifest.json").read_bytes()
    prepare(["test_vit"], cache, SIDE, 4, "fp32")
    assert capsys.readouterr().out == ""
    assert (cache / "test_vit-32px-4c/manifest.json").read_bytes() == before
    folder = candidate_folder(cache, "test_vit", SIDE, 4)
    assert candidates.cached(folder, "test_vit", "fp32") is not None
    assert candidates.cached(folder, "test_resnet", "fp32") is None
    assert candidates.cached(folder, "test_vit", "fp16") is None
    monkeypatch.setattr("dhox.__version__", "0.0.0")
    assert candidates.cached(folder, "test_vit", "fp32") is None


@pytest.mark.slow
def test_students_that_cannot_be(cache: Path, capsys: pytest.CaptureFixture) -> None:
    with refuses("'resnt18'", at="distill.students.student.check_student_name", fix="resnet18"):
        prepare(["test_resnet", "resnt18"], Path("other"), SIDE, 4, "fp32")
    assert not Path("other").exists()
    found = swept("test_resnet", "vit_tiny_patch16_224", candidates=Path("own"), image_size=8, classes=3)
    assert [one.student for one in found.rows] == ["test_resnet"]
    assert [one.student for one in found.failed] == ["vit_tiny_patch16_224"]
    assert len(found.failed[0].reason) > 10
    with refuses("--fp16", at="bench.sweep.run.check_place", kind=UsageError):
        swept("test_resnet", candidates=cache, fp16=True, out=Path("no"))
    with refuses("--device jetson", at="bench.runners.runner.choose_device", fix="--host"):
        swept("test_resnet", candidates=Path("never"), device="jetson", out=Path("no"))
    assert not Path("never").exists()
    with refuses("empty", "fp32", at="bench.sweep.candidates", fix="--students", kind=UsageError):
        swept(candidates=Path("empty"), out=Path("no"))


def test_a_jetson_without_cuda_in_onnx_runtime_builds_engines_before_it_refuses(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """TensorRT beside a CPU-only ONNX Runtime, as on most boards; here is no GPU to run an engine on."""
    if why_not("CUDAExecutionProvider") is None:
        pytest.skip("ONNX Runtime has CUDA here")
    board = Path("board/proc/device-tree")
    board.mkdir(parents=True)
    (board / "compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0")
    monkeypatch.setenv("DHOX_SYSROOT", str(Path("board").absolute()))
    with refuses(
        "--device jetson", "engine", at="bench.runners.runner.choose_device", fix="dhox export EXPORT --tensorrt"
    ):
        swept(candidates=Path(shutil.copytree(cache, "own")), image_size=SIDE, device="jetson", budget="5ms")
    said = " ".join(capsys.readouterr().out.split())
    assert "Building the fp32 engine of test_resnet" in said
    assert "Building the fp32 engine of test_vit" in said


@pytest.mark.parametrize("option", ["--duration", "--energy"])
def test_no_sweep_lasts_longer_per_student_than_a_bench(option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        main(["sweep", "--students", "test_resnet", "--device", "cpu", option, "1e9"])
    assert "equal to 3600" in " ".join(capsys.readouterr().err.split())


def test_ctrl_c_keeps_what_is_exported(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dhox.export.untrained.export_candidate", pressed)
    with refuses(at="bench.sweep.candidates.prepare", fix=(cache,), kind=StoppedError):
        prepare(["test_vit", "test_convnext"], cache, SIDE, 4, "fp32")
    assert candidates.cached(candidate_folder(cache, "test_vit", SIDE, 4), "test_vit", "fp32") is not None


def test_ctrl_c_keeps_what_is_measured(cache: Path, capsys: pytest.CaptureFixture) -> None:
    words = f"sweep --candidates {cache} --device cpu --duration 60 --budget 5ms --out cut".split()
    threading.Timer(4, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(SystemExit, match="^130$"):
        main(words)
    found = read_record(Path("cut/sweep.json"), Sweep)
    assert found.status == "interrupted"
    assert len(found.rows) + len(found.failed) == 2
    assert Path("cut/sweep.html").exists()
    assert "cut holds what it measured" in " ".join(capsys.readouterr().err.split())


def test_an_interrupted_sweep_advises_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two students: the other one could be the better."""

    def stopped(*arguments: Any) -> Bench:
        measured = measure_all(*arguments)
        return replace(measured, status="interrupted", latency=measured.latency[:1])

    monkeypatch.setattr("dhox.bench.sweep.run.measure_all", stopped)
    found = swept(candidates=cache, energy=0.0, budget="10s")
    assert len(found.rows) == len(found.failed) == 1
    assert "interrupted" in found.failed[0].reason
    assert found.choice is None


@pytest.mark.slow
def test_the_memory_of_a_model_leaves_its_runtime_out(cache: Path) -> None:
    """torch alone has more than 100 MB of libraries; this network has 2 MB of weights."""
    export = cache / "test_resnet-32px-4c"
    assert 0 < measure_footprint(export, "fp32", "onnxruntime", "cpu", 1) < 100e6
    loaded = "import sys; from dhox.bench.sweep.footprint import load_runtime; load_runtime(sys.argv[1]); "
    command = [sys.executable, "-c", f"{loaded} sys.exit('torch' not in sys.modules)", "torch"]
    assert subprocess.run(command, check=False).returncode == 0


def test_why_memory_was_not_measured_is_said(cache: Path) -> None:
    with refuses("--runner tensorrt", at="bench.sweep.footprint.measure_footprint"):
        measure_footprint(cache / "test_vit-32px-4c", "fp32", "tensorrt", "cpu", 1)
    measured = example(Path("bench"), "cpu", models=("fp32",), batches=(1,))
    missing = candidates.Candidate("test_vit", SIDE, 4, Path("gone"))
    (found,) = with_footprints([row("test_vit", 1.0)], [missing], measured, "fp32", 1)
    assert found.memory_bytes is None
    assert "gone" in (found.memory_note or "")


def test_no_command_takes_a_candidate_for_the_newest_export(own_directory: Path, cache: Path) -> None:
    from dhox.artefacts.files import EXPORT_FILE, EXPORT_SCHEMA, newest
    from dhox.bench.sweep.options import CANDIDATES

    CANDIDATES.symlink_to(cache)
    assert open_models([CANDIDATES / "test_vit-32px-4c"])
    assert newest(own_directory, EXPORT_FILE, EXPORT_SCHEMA) is None
