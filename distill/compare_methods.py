"""Several methods over several seeds on one DATA, in one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dhox.artefacts.comparison import Comparison, ComparisonRow, MeanInterval
from dhox.artefacts.files import COMPARISON_FILE, COMPARISON_SCHEMA, check_output, holds, make_folder, mark_running
from dhox.artefacts.record import read_head, write_record
from dhox.artefacts.run import Method, TestStage
from dhox.artefacts.run_directory import open_run
from dhox.console import say
from dhox.data.dataset import Splits, data_address, read_dataset
from dhox.distill.options import DistillOptions, check, single
from dhox.distill.processes import create_fabric
from dhox.distill.results.outcome import RunResult, answers_right
from dhox.distill.run import distill
from dhox.errors import DhoxError
from dhox.evidence.statistics import mean_interval
from dhox.options.declare import replaced
from dhox.system.environment import now, versions

# The stage that stands for a method.
CHOSEN: dict[Method, TestStage] = {"dho": "dho", "sho": "student", "ce": "student", "kd": "student"}


def compare(
    data: Path, out: Path, options: DistillOptions, try_export: Callable[[], object] | None = None
) -> Comparison:
    """Train every method of the options with every seed into OUT/METHOD-SEED, and write OUT/comparison.json.

    The teacher cache is shared. Accuracies are on test; with `resume` the finished trainings are kept. `try_export`: of
    the first training alone (see `distill`).
    """
    check(options)
    methods, seeds = options.training.methods, options.training.seeds or 1
    overwrite, resume = options.output.overwrite, options.output.resume
    check_test_images(data, read_dataset(data), options)
    fabric, _ = create_fabric(options.speed.device, options.speed.precision)
    begun = check_comparison(out, options)
    fabric.barrier()
    if fabric.is_global_zero:
        make_folder(out, "Choose another --out.")
        mark_running(out / COMPARISON_FILE, COMPARISON_SCHEMA)
    first, first_split = options.training.seed, options.labels.split_seed
    results: dict[Method, list[RunResult]] = {method: [] for method in methods}
    told = False
    for i in range(seeds):
        for method in methods:
            say(f"{method}, seed {first + i}")
            of_method = replaced(
                single(options, method, i), cache=options.speed.cache or out.absolute().parent / "cache",
                overwrite=overwrite or resume or begun,
            )  # fmt: skip
            place, asked = out / f"{method}-{first + i}", None if told else try_export
            results[method].append(distill(data, place, of_method, tell=not told, try_export=asked))
            told = True
    content = Comparison(
        finished_at=now(), methods=methods, seeds=seeds, data=data_address(data), first_seed=first,
        first_split_seed=first_split, n_test=results[methods[0]][0].summary.sets.n_test,
        rows=_comparison_rows(results), environment=versions(),
    )  # fmt: skip
    if fabric.is_global_zero:
        write_record(out / COMPARISON_FILE, content)
    return content


def check_test_images(data: Path, splits: Splits, options: DistillOptions) -> None:
    """Raise DhoxError where there is no test image, and none is drawn."""
    if not splits["test"] and not options.labels.test_fraction:
        raise DhoxError(
            f"{data} has no test images, which methods are compared on.", "Add test/CLASS/*, or give --test-fraction."
        )


def check_comparison(out: Path, options: DistillOptions) -> bool:
    """Whether a comparison was begun there and never completed. Raises DhoxError where `out` may not be written."""
    begun = holds(out, COMPARISON_FILE, COMPARISON_SCHEMA) and unfinished(out)
    check_output(out, COMPARISON_FILE, COMPARISON_SCHEMA, options.output.overwrite or options.output.resume or begun)
    return begun


def unfinished(out: Path) -> bool:
    """Whether a comparison was begun there and never completed."""
    return read_head(out / COMPARISON_FILE).status == "running"


def _comparison_rows(results: dict[Method, list[RunResult]]) -> list[ComparisonRow]:
    """A row per method and stage: accuracy of each seed, mean and 95 % interval, and the paired difference to dho."""
    values: dict[tuple[Method | Literal["teacher"], TestStage], list[float]] = {}
    # The teacher is the same in every method, but kd's has no labels for an adapter.
    of_teacher = next((method for method in results if method not in {"ce", "kd"}), "kd")
    for method, runs in results.items():
        for result in runs:
            for row in result.summary.test or []:
                if row.stage == "teacher" and method != of_teacher:
                    continue
                values.setdefault(("teacher" if row.stage == "teacher" else method, row.stage), []).append(row.accuracy)
    reference = values.get(("dho", "dho"))
    rows = []
    for (name, stage), accuracies in values.items():
        difference = on_validation = None
        if reference is not None and name != "teacher" and name != "dho" and CHOSEN[name] == stage:
            difference = MeanInterval(*mean_interval([a - b for a, b in zip(accuracies, reference, strict=True)]))
            on_validation = validation_difference(results[name], results["dho"])
        mean, interval = mean_interval(accuracies)
        rows.append(ComparisonRow(mean, interval, name, stage, accuracies, difference, on_validation))
    return rows


def validation_difference(runs: list[RunResult], of_dho: list[RunResult]) -> MeanInterval | None:
    """Validation accuracy minus that of DHO, paired by seed; None without validation images."""
    pairs = [(validation_accuracy(run), validation_accuracy(dho)) for run, dho in zip(runs, of_dho, strict=True)]
    differences = [own - other for own, other in pairs if own is not None and other is not None]
    return MeanInterval(*mean_interval(differences)) if len(differences) == len(runs) else None


def validation_accuracy(result: RunResult) -> float | None:
    """The accuracy of a run's answers to its validation images, in [0, 1]; None without one."""
    val = open_run(result.run).validation
    return float(answers_right(val, result.selection).mean()) if len(val) else None
