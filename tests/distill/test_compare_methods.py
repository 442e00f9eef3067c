from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_data
from quick_distill import DEMO_TEACHER, QUICK, quick
from refusals import refuses

from dhox.artefacts.comparison import Comparison, ComparisonRow
from dhox.artefacts.files import COMPARISON_FILE, RUN_FILE
from dhox.artefacts.record import read_record
from dhox.artefacts.run import read_run
from dhox.cli.main import main
from dhox.distill.compare_methods import compare
from dhox.distill.dry_run import plan
from dhox.distill.options import DistillOptions, check, single
from dhox.distill.run import distill
from dhox.evidence.statistics import mean_interval, student_t
from dhox.options.declare import build, replaced
from dhox.reports.pages.training import comparison_page

OPTIONS = QUICK | {"device": "cpu", "epochs": 3, "shots": 4, "workers": 0}


def compared(data: Path, methods: str, seeds: int, **options: object) -> Comparison:
    given = build(DistillOptions, **OPTIONS, method=methods, seeds=seeds, **options)
    return compare(data, Path("runs/c"), given)


def test_methods_over_seeds_make_one_table(line: Path) -> None:
    result = compared(line / "data", "dho,sho,ce,kd", 2)
    content = read_record(Path("runs/c") / COMPARISON_FILE, Comparison)
    assert content == result
    rows = {(row.method, row.stage): row for row in content.rows}
    assert set(rows) == {
        ("teacher", "teacher"), ("dho", "ce_head"), ("dho", "kd_head"), ("dho", "dho_fixed"), ("dho", "dho"),
        ("sho", "student"), ("ce", "student"), ("kd", "student"),
    }  # fmt: skip
    for method in ("dho", "sho", "ce", "kd"):
        for seed in (0, 1):
            summary = read_run(Path(f"runs/c/{method}-{seed}"))
            assert summary.training.seed == summary.training.split_seed == seed
            stage = "dho" if method == "dho" else "student"
            accuracy = next(row.accuracy for row in summary.test if row.stage == stage)
            assert rows[method, stage].accuracies[seed] == accuracy
    assert rows["ce", "student"].minus_dho.mean == pytest.approx(rows["ce", "student"].mean - rows["dho", "dho"].mean)
    assert rows["dho", "dho"].minus_dho is None
    assert len(list(Path("runs/cache").glob("teacher-*views"))) == 1  # one cache for all eight trainings
    with refuses("runs/c", at="artefacts.files.check_output", fix="--overwrite"):
        compared(line / "data", "ce", 1)
    before = (Path("runs/c/ce-0") / RUN_FILE).stat().st_mtime_ns
    again = compared(line / "data", "ce", 1, resume=True)
    assert (Path("runs/c/ce-0") / RUN_FILE).stat().st_mtime_ns == before
    assert again.rows[0].interval is None


def test_the_command_compares_and_prints_one_table(line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "distill", str(line / "data"), "--teacher", DEMO_TEACHER, "--student", "test_resnet", "--student-weights",
        "none", "--image-size", "28", "--epochs", "1", "--shots", "4", "--method", "dho,ce", "--seeds", "2", "--out", "c",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    assert "48 test images, 2 seeds" in said.out
    assert "minus dho, points" in said.out
    assert said.out.count("dho, CE head") == 1
    assert said.out.count("Sizes: ") == 1  # what DATA holds is said of the first training alone


def test_intervals_of_a_mean_are_students() -> None:
    published = {1: (12.706, 63.657), 2: (4.303, 9.925), 3: (3.182, 5.841), 4: (2.776, 4.604), 9: (2.262, 3.250)}
    published |= {10: (2.228, 3.169), 38: (2.024, 2.712), 120: (1.980, 2.617)}
    for degrees, quantiles in published.items():
        assert [student_t(p, degrees) for p in (0.05, 0.01)] == pytest.approx(quantiles, abs=5.1e-4)
    mean, interval = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert interval == pytest.approx((2 - 4.3026527 / np.sqrt(3), 2 + 4.3026527 / np.sqrt(3)))
    assert mean_interval([1.0]) == (1.0, None)


@pytest.mark.parametrize("epoch_over", ["unlabelled", "labelled"])
def test_a_dry_run_takes_the_steps_that_training_takes(line: Path, epoch_over: str) -> None:
    options = QUICK | {"shots": 4, "epochs": 2, "epoch_over": epoch_over, "workers": 0}
    (steps,) = plan(line / "data", Path("runs/x"), build(DistillOptions, **options)).training.steps
    trained = quick(line / "data", **options).summary.training
    assert (steps.epochs, steps.epoch_steps, steps.views) == (trained.epochs, trained.epoch_steps, trained.views)
    assert (steps.batch_labelled, steps.batch_unlabelled) == (trained.batch_labelled, trained.batch_unlabelled)
    assert steps.epoch_steps == {"unlabelled": 3, "labelled": 2}[epoch_over]  # 80 by 32, 16 by 8


def test_a_dry_run_sums_the_trainings_of_a_comparison(line: Path) -> None:
    options = build(DistillOptions, **QUICK, shots=4, method="dho,kd", seeds=2, workers=0)
    steps = plan(line / "data", Path("runs/x"), options).training.steps
    assert [of.epoch_steps for of in steps] == [3, 3, 3, 3]
    assert [of.batch_labelled for of in steps] == [8, 8, 0, 0]


@pytest.mark.parametrize("run", [plan, distill, compare])
def test_what_needs_no_model_is_checked_before_any_is_loaded(
    line: Path, run: Callable[[Path, Path, DistillOptions], object]
) -> None:
    """The teacher does not exist, and nobody gets as far as to miss it; a dry run refuses what the real one does."""
    methods = {"method": "dho,ce"} if run is compare else {}
    options = build(DistillOptions, **QUICK | {"teacher": "nowhere", "workers": 0} | methods)
    (Path("taken") / "notes").mkdir(parents=True)
    Path("file").write_text("")
    with refuses("taken", at="artefacts.files.check_output", fix="--out"):
        run(line / "data", Path("taken"), options)
    with refuses("file/runs/x", "no folder", at="artefacts.files.check_place", fix="--out"):
        run(line / "data", Path("file/runs/x"), options)
    many = replaced(options, shots=1000)
    with refuses(1000, at="distill.images"):
        run(line / "data", Path("runs/x"), many)
    with refuses("nowhere", at="distill.teachers"):
        run(line / "data", Path("runs/y"), options)


def test_a_comparison_without_test_images_is_refused_dry_too(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/test")
    options = build(DistillOptions, **QUICK | {"method": "dho,ce", "workers": 0})
    for run in (compare, plan):
        with refuses("test", at="distill.compare_methods.check_test_images", fix="--test-fraction"):
            run(tmp_path / "data", Path("runs/x"), options)
    drawn = replaced(options, test_fraction=0.25)
    assert len(plan(tmp_path / "data", Path("runs/x"), drawn).training.steps) == 2


def test_a_dry_run_measures_and_writes_nothing(line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(line / "data", Path("runs/x"), build(DistillOptions, **QUICK | {"epochs": 3, "workers": 0}))
    assert (found.n_training, found.n_whole) == (96, 128)
    assert found.teacher.passes == 96 * 2 + 128
    assert found.teacher.cache_bytes == 2 * 64 * (96 * 2 + 128)
    assert found.packing.bytes == 96 * 28 * 28 * 3
    assert found.training.seconds == pytest.approx(found.training.steps[0].images / found.training.images_per_s)
    assert min(found.decode_s, found.packing.seconds, found.memory_bytes, found.free_bytes) > 0
    for command in (
        ["distill", "--student", "test_resnet", "--image-size", "28", "--student-weights", "none"],
        ["cache"],
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([command[0], str(line / "data"), *command[1:], "--teacher", DEMO_TEACHER, "--dry-run"])
        said = capsys.readouterr()
        assert end.value.code == 0, said.err
        assert "teacher passes" in said.out
        assert "Nothing was written" in said.out
        assert max(map(len, said.out.splitlines())) <= 140
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("seeds", "caption"), [(1, "one seed, which gives no interval"), (2, "2 seeds, 95 % intervals over seeds")]
)
def test_one_seed_has_no_interval_and_says_none(seeds: int, caption: str) -> None:
    row = ComparisonRow(mean=0.5, interval=None, method="dho", stage="dho", accuracies=[0.5] * seeds)
    content = Comparison(
        finished_at="2026-01-01T00:00:00+00:00", methods=["dho"], seeds=seeds, data="/d", first_seed=0,
        first_split_seed=0, n_test=48, rows=[row], environment={},
    )  # fmt: skip
    (section,) = comparison_page(Path("c"), content).sections
    assert section.tables[0].caption == f"48 test images, {caption}."


@pytest.mark.parametrize(
    "given",
    [
        {"top_k": 5},
        {"teacher_temperature": 2.0},
        {"online_teacher": True},
        {"adapter": "probe"},
        {"teacher_logits": Path("logits.npy")},
        {"teacher_embeddings": Path("z.npy"), "class_embeddings": Path("w.npy"), "teacher_scale": 100.0},
        {"kd_head": "cosine-paper", "tune_on": "held-out", "balance_labels": True},
    ],
    ids=lambda given: next(iter(given)),
)
def test_each_training_takes_what_its_comparison_takes(given: dict[str, object]) -> None:
    options = build(DistillOptions, method="dho,sho,ce,kd", shots=16, seeds=2, **given)
    check(options)
    for method in options.training.methods:
        check(single(options, method, 1))
