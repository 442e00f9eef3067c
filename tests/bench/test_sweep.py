"""Choosing a student: budgets, the Pareto front, accuracies of finished runs, and a sweep of real untrained students."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_architecture import BOARD

from dhox.artefacts.files import read_json, write_json
from dhox.artefacts.sweep import Front, KnownAccuracy
from dhox.bench.bench_models import open_models
from dhox.bench.run import BenchResult
from dhox.bench.sweep import candidates
from dhox.bench.sweep.candidates import candidate_folder, prepare
from dhox.bench.sweep.choose import choose, fronts, pareto_front, parse_budget
from dhox.bench.sweep.footprint import measure_footprint
from dhox.bench.sweep.known_accuracy import accuracy_of, finished_runs
from dhox.bench.sweep.options import SweepOptions
from dhox.bench.sweep.run import add_footprints, measure_all, sweep
from dhox.cli.main import main
from dhox.console import console
from dhox.errors import DhoxError, UsageError
from dhox.models.classifier import load
from dhox.models.export_directory import read_manifest
from dhox.options.declare import build
from dhox.reports.pages.sweep import sweep_page
from dhox.reports.terminal import show
from dhox.runtimes.onnxruntime_api import available_providers

SIDE = 32


def row(
    student: str, ms: float, parameters: float = 1e6, accuracy: float | None = None, n: int = 1000, method: str = "dho"
) -> dict[str, Any]:
    known = (
        {
            "accuracy": accuracy,
            "interval": [accuracy - 0.02, accuracy + 0.02],
            "n": n,
            "split": "test",
            "data": "d",
            "method": method,
        }
        if accuracy
        else None
    )
    return {
        "student": student, "latency_ms": {"p50": ms}, "p50_interval": [0.9 * ms, 1.1 * ms], "parameters": parameters,
        "accuracy": known,
    }  # fmt: skip


# -- plain functions


@pytest.mark.parametrize(
    ("text", "ms"),
    [("5ms", 5), ("0.5 ms", 0.5), ("200us", 0.2), ("200µs", 0.2), ("2s", 2000), (" .5s ", 500), ("3.ms", 3)],
)
def test_budgets(text: str, ms: float) -> None:
    assert parse_budget(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["5", "ms", "0ms", "-1ms", "5 m", "1e3ms", "5ms5", "nan ms", "", "9" * 400 + "ms"])
def test_what_no_budget_is(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no latency\. Write a number above 0 with its unit"):
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
    fitting = {one["student"]: one for one in rows if one["p50_interval"][1] <= budget}
    assert set(choice.within) == set(fitting)
    assert bool(choice.distill) == bool(fitting)
    for name in choice.distill:
        assert fitting[name]["accuracy"]["accuracy"] == max(one["accuracy"]["accuracy"] for one in fitting.values())


def test_the_upper_end_of_the_interval_decides() -> None:
    rows = [row("edge", 5.0, accuracy=0.8)]
    assert choose(rows, 5.5).within == ["edge"]  # 1.1 x 5
    none = choose(rows, 5.49)
    assert (none.within, none.distill) == ([], [])
    assert "No student is within 5.49 ms. The nearest is edge with a median of 5 ms" in none.words[0]


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
    assert "accuracy decides" in choice.words[1]
    assert fronts(rows) == ([], ["a", "b", "d", "e", "late"])


def test_accuracies_on_other_images_are_not_compared() -> None:
    rows = [row("a", 1, accuracy=0.7), row("b", 2, accuracy=0.8), row("c", 3, accuracy=0.99, n=50), row("d", 4)]
    choice = choose(rows, 10)
    assert choice.distill == ["b"]
    assert "b is the most accurate: 80.0 %" in choice.words[0]
    assert "without an accuracy on the same images: c, d" in choice.words[-1]
    assert choose([row("a", 1, 1e6, 0.7), row("b", 2, 2e6), row("c", 3, 2e6)], 10).distill == ["a", "b"]
    rows = [row("a", 1, accuracy=0.7), row("b", 2, accuracy=0.8), row("c", 3, accuracy=0.9, method="ce")]
    assert choose(rows, 10).distill == ["b"]
    assert "the only one with a known accuracy" in choose([row("a", 1, accuracy=0.7)], 10).words[0]
    assert fronts(rows)[0] == ["a", "b"]


def test_a_faster_student_that_is_not_told_apart_is_named() -> None:
    assert "not told apart" not in " ".join(choose([row("a", 1, accuracy=0.7), row("b", 2, accuracy=0.8)], 10).words)
    assert "a is faster (1 ms)" in choose([row("a", 1, accuracy=0.77), row("b", 2, accuracy=0.8)], 10).words[1]
    assert len(choose([row("a", 2, accuracy=0.77), row("b", 1, accuracy=0.8)], 10).words) == 1


# -- accuracies of finished runs


def test_accuracies_come_from_the_best_evidence_of_the_newest_run(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    runs = finished_runs([own_line])
    assert [place for place, _ in runs] == [run]
    assert accuracy_of(runs, "resnet18", 28, "fp32") is None
    assert accuracy_of(runs, "test_resnet", 32, "fp32") is None

    bench = read_json(run / "bench/here/bench.json", "dhox.bench/2")
    file = accuracy_of(runs, "test_resnet", 28, "fp16")
    assert file is not None
    (measured,) = [one for one in bench["accuracy"]["rows"] if one["precision"] == "fp16"]
    assert (file["split"], file["n"], file["accuracy"]) == ("test", 48, measured["accuracy"])
    assert file["what"] == "the fp16 file, here"

    failed = [row | {"passed": row["subject"] != "fp16"} for row in bench["golden"]]
    for unfit in ({"status": "interrupted"}, {"golden": failed}):
        write_json(run / "bench/here/bench.json", bench | unfit)
        other = accuracy_of(runs, "test_resnet", 28, "fp16")
        assert other is not None
        assert other["what"] == "torch, stage dho"
    write_json(run / "bench/here/bench.json", bench)
    manifest = (run / "export/manifest.json").read_bytes()
    (run / "export/manifest.json").write_bytes(manifest + b" ")  # exported again since
    torch = accuracy_of(runs, "test_resnet", 28, "fp16")
    assert torch is not None
    (run / "export/manifest.json").write_bytes(manifest)
    (run / "bench/here/bench.json").unlink()
    assert accuracy_of(runs, "test_resnet", 28, "fp16") == torch
    (dho,) = [one for one in runs[0][1]["test"] if one["stage"] == "dho"]
    assert (torch["split"], torch["accuracy"], torch["what"]) == ("test", dho["accuracy"], "torch, stage dho")

    runs[0][1]["test"] = None
    ledger = accuracy_of(runs, "test_resnet", 28, "fp16")
    assert ledger is not None
    assert ledger["split"] == read_json(run / "export/ledger.json", "dhox.evidence.ledger/2")["images"]

    later = run.with_name("later")
    later.mkdir()
    write_json(later / "run.json", runs[0][1] | {"finished_at": "9999", "test": [{**dho, "accuracy": 0.125}]})
    newest = accuracy_of(finished_runs([own_line]), "test_resnet", 28, "fp32")
    assert newest is not None
    assert (newest["accuracy"], newest["run"]) == (0.125, str(later))
    baseline = later.with_name("labels-only")
    baseline.mkdir()
    alone = {"finished_at": "99999", "method": "ce", "test": [{**dho, "stage": "student", "accuracy": 0.25}]}
    write_json(baseline / "run.json", runs[0][1] | alone)
    assert accuracy_of(finished_runs([own_line]), "test_resnet", 28, "fp32") == newest
    only = accuracy_of(finished_runs([baseline]), "test_resnet", 28, "fp32")
    assert only is not None
    assert (only["method"], only["accuracy"]) == ("ce", 0.25)
    with pytest.raises(DhoxError, match=r"--runs .*nowhere is no directory"):
        finished_runs([own_line / "nowhere"])


# -- a sweep


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real students, exported once."""
    root = tmp_path_factory.mktemp("cache") / "candidates"
    found, failed = prepare(["test_resnet", "test_vit"], root, SIDE, 4, "fp32", print)
    assert failed == []
    assert [candidate.export for candidate in found] == [
        root / "test_resnet-32px-4c", root / "test_vit-32px-4c"
    ]  # fmt: skip
    return root


def test_a_candidate_is_a_whole_export_with_finite_answers(cache: Path, line: Path) -> None:
    model = load(cache / "test_resnet-32px-4c", "cpu")
    probs = model(next((line / "data/test/bag").iterdir()))
    assert probs.shape == (1, 4)
    assert probs.sum() == pytest.approx(1, abs=1e-5)
    assert 0.25 < probs.max() < 0.99  # neither constant nor saturated
    manifest = read_manifest(cache / "test_resnet-32px-4c")
    assert (manifest["run"]["method"], manifest["student"]["name"]) == ("untrained", "test_resnet")


def test_a_sweep_measures_joins_and_chooses(cache: Path, own_line: Path, capsys: pytest.CaptureFixture) -> None:
    run = own_line / "runs/tiny/run.json"
    summary = read_json(run, "dhox.run/1")
    summary["student"]["image_size"] = SIDE
    write_json(run, summary)
    words = [
        "sweep",
        "--students",
        "test_vit,test_resnet",
        "--candidates",
        str(cache),
        "--image-size",
        "32",
        "--classes",
        "4",
    ]
    words += ["--device", "cpu", "--duration", "0.05", "--runs", str(own_line), "--out", "swept"]
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--budget", "10s"])
    said = " ".join(capsys.readouterr().out.split())
    content = read_json(Path("swept/sweep.json"), "dhox.sweep/1")
    rows = {one["student"]: one for one in content["rows"]}
    assert list(rows) == sorted(rows, key=lambda name: rows[name]["latency_ms"]["p50"])
    assert set(rows) == {"test_vit", "test_resnet"}
    assert content["failed"] == []
    for one in rows.values():
        assert one["p50_interval"][0] <= one["latency_ms"]["p50"] <= one["p50_interval"][1]
        assert one["within"] is True
        assert 1e6 < one["memory_bytes"] < 1e9
        assert 4 * one["parameters"] < one["bytes"] < 4.5 * one["parameters"]  # fp32
    assert rows["test_resnet"]["accuracy"]["split"] == "test"
    assert rows["test_vit"]["accuracy"] is None
    assert content["choice"]["distill"] == ["test_resnet"]
    assert "Next:" not in said  # it is trained already
    samples = json.loads(Path("swept/bench/bench.json").read_text())
    assert {one["scope"] for one in samples["latency"]} == {"e2e"}
    page = Path("swept/sweep.html").read_text()
    assert page.count("<svg") == 2
    assert "&lt;/" not in page  # no tag is shown
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons", ""
    )

    with pytest.raises(SystemExit, match="3"):
        main([*words, "--budget", "1us", "--overwrite"])
    said = " ".join(capsys.readouterr().err.split())
    assert "No student is within 0.001 ms. The nearest is" in said
    assert "--image-size" in said
    assert read_json(Path("swept/sweep.json"), "dhox.sweep/1")["choice"]["distill"] == []


def test_tables_fit_100_columns(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    options = build(SweepOptions, candidates=cache, device="cpu", duration=0.05, budget="1ms", out=Path("all"))
    found = sweep(options).sweep
    known = KnownAccuracy(
        accuracy=0.5, interval=(0.45, 0.55), n=3000, split="test", data="d", what="w", method="dho", run="r"
    )
    rows = [
        msgspec.structs.replace(
            row, student=f"vit_base_patch16_clip_quickgelu_224_{number}", accuracy=known, mj_per_image=123.4,
            memory_bytes=2_000_000_000, parameters=300_000_000, bytes=1_200_000_000, p50_interval=(0.0123, 0.0124),
            latency_ms=msgspec.structs.replace(row.latency_ms, p50=1234.5, p99=123.4),
        ) for number, row in enumerate(found.rows)
    ]  # fmt: skip
    front, chosen = Front(accuracy=[], parameters=[]), None
    wide = msgspec.structs.replace(found, rows=rows, front=front, choice=chosen)
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
    assert {one["student"] for one in read_json(Path("swept/sweep.json"), "dhox.sweep/1")["rows"]} == {
        "test_vit",
        "test_resnet",
    }
    done = board("--students", "resnet18")
    assert done.returncode == 1
    assert "Export the students on a workstation with dhox sweep --export-only" in " ".join(done.stderr.split())


def copied(cache: Path, root: Path, image_size: int, classes: int) -> Path:
    """The candidates of `cache`, beside test_resnet with another size or number of classes, by its manifest."""
    shutil.copytree(cache, root, dirs_exist_ok=True)
    folder = candidate_folder(root, "test_resnet", image_size, classes)
    shutil.copytree(cache / "test_resnet-32px-4c", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["student"]["image_size"] = image_size
    manifest["classes"] = [{"id": i, "name": f"c{i}", "prompt": f"c{i}"} for i in range(classes)]
    write_json(folder / "manifest.json", manifest)
    return root


def test_a_cache_of_several_sizes_is_narrowed_or_refused(cache: Path, capsys: pytest.CaptureFixture) -> None:
    def names(image_size: int | None, classes: int | None) -> list[str]:
        return [one.export.name for one in candidates.all_cached(root, "fp32", image_size, classes)]

    both = ["test_resnet-32px-4c", "test_vit-32px-4c"]
    root = copied(cache, Path("sizes"), 64, 4)
    with pytest.raises(
        UsageError, match=r"sizes holds test_resnet for 32 and 64 px\. Choose one size \(--image-size 32"
    ):
        names(None, None)
    assert names(32, None) == both
    assert names(64, 4) == ["test_resnet-64px-4c"]
    with pytest.raises(UsageError, match=r"holds no fp32 candidate of 96 px for 4 classes .* Name students"):
        names(96, 4)
    root = copied(cache, Path("counts"), 32, 7)
    with pytest.raises(UsageError, match=r"for 4 and 7 classes, which do not compare\. Choose: --classes 4"):
        names(32, None)
    assert names(None, 4) == both
    shutil.copytree(cache / "test_vit-32px-4c", root / "test_vit-ownpx-4c")  # the same network twice
    assert [one.student for one in candidates.all_cached(root, "fp32", None, 4)] == ["test_resnet", "test_vit"]

    words = ["sweep", "--candidates", "sizes", "--image-size", "32", "--device", "cpu", "--duration", "0.05"]
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--budget", "10s", "--out", "swept"])
    said = " ".join(capsys.readouterr().out.split())
    content = read_json(Path("swept/sweep.json"), "dhox.sweep/1")
    assert sorted(one["student"] for one in content["rows"]) == ["test_resnet", "test_vit"]
    assert {one["image_size"] for one in content["rows"]} == {32}
    assert content["settings"]["classes"] == 4
    best = content["choice"]["distill"][0]
    assert f"Next: dhox distill DATA --student {best} --image-size 32" in said


def test_the_command_after_an_export_finds_it(cache: Path, capsys: pytest.CaptureFixture) -> None:
    Path("my cache").symlink_to(cache)
    words = ["sweep", "--students", "test_vit", "--image-size", "32", "--classes", "4", "--candidates", "my cache"]
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--export-only"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Next: dhox sweep --candidates 'my cache' --image-size 32 --classes 4 --budget 5ms" in said


def test_a_candidate_is_exported_once_and_again_for_another_version(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    before = (cache / "test_vit-32px-4c/manifest.json").read_bytes()
    prepare(["test_vit"], cache, SIDE, 4, "fp32", said.append)
    assert said == []
    assert (cache / "test_vit-32px-4c/manifest.json").read_bytes() == before
    folder = candidate_folder(cache, "test_vit", SIDE, 4)
    assert candidates.cached(folder, "test_vit", "fp32") is not None
    assert candidates.cached(folder, "test_resnet", "fp32") is None
    assert candidates.cached(folder, "test_vit", "fp16") is None
    monkeypatch.setattr("dhox.__version__", "0.0.0")
    assert candidates.cached(folder, "test_vit", "fp32") is None


def test_students_that_cannot_be(cache: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(DhoxError, match=r"'resnt18' is not a timm model\. Closest: resnet18"):
        prepare(["test_resnet", "resnt18"], Path("other"), SIDE, 4, "fp32", print)
    assert not Path("other").exists()
    result = sweep(
        ["test_resnet", "vit_tiny_patch16_224"], Path("swept"), candidates=Path("own"), image_size=8, classes=3,
        device="cpu", duration_s=0.05,
    )  # fmt: skip
    assert [one["student"] for one in result.content["rows"]] == ["test_resnet"]
    assert [one["student"] for one in result.content["failed"]] == ["vit_tiny_patch16_224"]
    assert len(result.content["failed"][0]["reason"]) > 10
    with pytest.raises(UsageError, match=r"--fp16 on the CPU would time conversions"):
        sweep(["test_resnet"], None, candidates=cache, fp16=True, device="cpu")
    with pytest.raises(DhoxError, match=r"--device jetson: this machine is not a Jetson"):
        sweep(["test_resnet"], None, candidates=Path("never"), device="jetson")
    assert not Path("never").exists()
    with pytest.raises(UsageError, match=r"holds no fp32 candidate"):
        sweep([], None, candidates=Path("empty"), device="cpu")


def test_a_jetson_without_cuda_in_onnx_runtime_builds_engines_before_it_refuses(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """TensorRT beside a CPU-only ONNX Runtime, as on most boards; here is no GPU to run an engine on."""
    if "CUDAExecutionProvider" in available_providers():
        pytest.skip("ONNX Runtime has CUDA here")
    board = Path("board/proc/device-tree")
    board.mkdir(parents=True)
    (board / "compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0")
    monkeypatch.setenv("DHOX_SYSROOT", str(Path("board").absolute()))
    with pytest.raises(DhoxError, match="--device jetson: no TensorRT engine .*Build an engine here"):
        sweep([], None, candidates=Path(shutil.copytree(cache, "own")), image_size=SIDE, device="jetson", budget_ms=5)
    said = " ".join(capsys.readouterr().out.split())
    assert "Building the fp32 engine of test_resnet" in said
    assert "Building the fp32 engine of test_vit" in said


@pytest.mark.parametrize("option", ["--duration", "--energy"])
def test_no_sweep_lasts_longer_per_student_than_a_bench(option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "--students", "test_resnet", "--device", "cpu", option, "1e9"])
    assert "equal to 3600" in " ".join(capsys.readouterr().err.split())


def test_ctrl_c_keeps_what_is_exported(cache: Path) -> None:
    def pressed(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(
        DhoxError, match=r"Interrupted\. .*candidates keeps what was exported; the same command"
    ) as caught:
        prepare(["test_vit", "test_convnext"], cache, SIDE, 4, "fp32", pressed)
    assert caught.value.exit_code == 130
    assert candidates.cached(candidate_folder(cache, "test_vit", SIDE, 4), "test_vit", "fp32") is not None


def test_ctrl_c_keeps_what_is_measured(cache: Path, capsys: pytest.CaptureFixture) -> None:
    words = [
        "sweep",
        "--candidates",
        str(cache),
        "--device",
        "cpu",
        "--duration",
        "60",
        "--budget",
        "5ms",
        "--out",
        "cut",
    ]
    threading.Timer(4, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(SystemExit, match="130"):
        main(words)
    content = read_json(Path("cut/sweep.json"), "dhox.sweep/1")
    assert content["status"] == "interrupted"
    assert len(content["rows"]) + len(content["failed"]) == 2
    assert Path("cut/sweep.html").exists()
    assert "cut holds what it measured" in " ".join(capsys.readouterr().err.split())


def test_an_interrupted_sweep_advises_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two students: the other one could be the better."""

    def stopped(*arguments: Any) -> BenchResult:
        result = measure_all(*arguments)
        result.content["status"] = "interrupted"
        result.content["latency"] = result.content["latency"][:1]
        return result

    monkeypatch.setattr("dhox.bench.sweep.run.measure_all", stopped)
    result = sweep([], Path("cut"), candidates=cache, device="cpu", duration_s=0.05, energy_s=0, budget_ms=1e4)
    assert len(result.content["rows"]) == 1
    assert result.content["failed"][0]["reason"] == "the sweep was interrupted before it was measured"
    assert result.content["choice"] is None


def test_the_memory_of_a_model_leaves_its_runtime_out(cache: Path) -> None:
    """torch alone has more than 100 MB of libraries; this network has 2 MB of weights."""
    export = cache / "test_resnet-32px-4c"
    assert 0 < measure_footprint(export, "fp32", "onnxruntime", "cpu", 1) < 100e6
    loaded = "import sys; from dhox.bench.sweep.footprint import load_runtime; load_runtime(sys.argv[1]); "
    command = [sys.executable, "-c", f"{loaded} sys.exit('torch' not in sys.modules)", "torch"]
    assert subprocess.run(command, check=False).returncode == 0


def test_why_memory_was_not_measured_is_said(cache: Path) -> None:
    with pytest.raises(DhoxError, match=r"^UsageError: --runner tensorrt needs a GPU, and the device is cpu"):
        measure_footprint(cache / "test_vit-32px-4c", "fp32", "tensorrt", "cpu", 1)
    rows: list[dict[str, Any]] = [{"student": "test_vit", "runner": "onnxruntime", "memory_note": None}]
    content = {"runners": [{"runner": "onnxruntime", "device": "cpu"}]}
    missing = candidates.Candidate("test_vit", SIDE, 4, Path("gone"))
    add_footprints(rows, [missing], content, "fp32", 1, skip=False)
    assert "gone" in rows[0]["memory_note"]


def test_no_command_takes_a_candidate_for_the_newest_export(own_directory: Path, cache: Path) -> None:
    from dhox.artefacts.files import EXPORT_FILE, EXPORT_SCHEMA, newest
    from dhox.cli.sweep import CANDIDATES

    CANDIDATES.symlink_to(cache)
    assert open_models([CANDIDATES / "test_vit-32px-4c"])
    assert newest(own_directory, EXPORT_FILE, EXPORT_SCHEMA) is None
