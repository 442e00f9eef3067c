"""Several methods over several seeds on one DATA, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhox.artefacts.files import COMPARISON_FILE, COMPARISON_SCHEMA, check_output, holds, read_json, write_json
from dhox.console import say
from dhox.data.dataset import data_address, read_dataset
from dhox.distill.options import DistillOptions, check
from dhox.distill.processes import create_fabric
from dhox.distill.run import DistillResult, distill
from dhox.errors import DhoxError
from dhox.evidence.statistics import mean_interval
from dhox.options.declare import replaced
from dhox.system.environment import now, versions

CHOSEN = {"dho": "dho", "sho": "student", "ce": "student", "kd": "student"}  # the stage that stands for a method


# kd uses no label, so nothing can be drawn or held out for it.
NO_LABELS: dict[str, Any] = {
    "shots": None,
    "label_fraction": None,
    "label_sampler": "dhox",
    "tune_on": "val",
    "adapter": "none",
    "balance_labels": False,
}


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison reports: the content of comparison.json."""

    out: Path
    content: dict[str, Any]


def compare(data: Path, out: Path, options: DistillOptions) -> ComparisonResult:
    """Train every method of the options with every seed into OUT/METHOD-SEED, and write OUT/comparison.json.

    Seed i adds i to `seed` (weights, order) and to `split_seed` (which images are labelled), so that the interval over
    seeds covers both. The teacher cache is shared. Accuracies are on test; with `resume` the
    finished trainings are kept.
    """
    check(options)
    methods, seeds = options.training.methods, options.training.seeds or 1
    overwrite, resume = options.output.overwrite, options.output.resume
    if not read_dataset(data)["test"]:
        raise DhoxError(f"{data} has no test images, which methods are compared on.", "Add test/CLASS/*.")
    fabric, _ = create_fabric(options.speed.device, options.speed.precision)
    header = {"schema": COMPARISON_SCHEMA, "methods": methods, "seeds": seeds}
    begun = holds(out, COMPARISON_FILE, COMPARISON_SCHEMA) and unfinished(out)
    check_output(out, COMPARISON_FILE, COMPARISON_SCHEMA, overwrite or resume or begun)
    fabric.barrier()
    if fabric.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / COMPARISON_FILE, header | {"status": "running"})
    first, first_split = options.training.seed, options.labels.split_seed
    results: dict[str, list[DistillResult]] = {method: [] for method in methods}
    for i in range(seeds):
        for method in methods:
            say(f"{method}, seed {first + i}")
            of_method = replaced(
                options, method=method, seeds=None, seed=first + i, split_seed=first_split + i,
                cache=options.speed.cache or out.absolute().parent / "cache",
                overwrite=overwrite or resume or begun,
                kd_head=options.student.kd_head if method == "dho" else "linear",  # of their one head
                **(NO_LABELS if method == "kd" else {}),
            )  # fmt: skip
            results[method].append(distill(data, out / f"{method}-{first + i}", of_method))
    content = header | {
        "status": "complete",
        "finished_at": now(),
        "data": data_address(data),
        "first_seed": first,
        "first_split_seed": first_split,
        "n_test": results[methods[0]][0].summary["sets"]["n_test"],
        "rows": comparison_rows(results),
        "environment": versions(),
    }
    if fabric.is_global_zero:
        write_json(out / COMPARISON_FILE, content)
    return ComparisonResult(out, content)


def unfinished(out: Path) -> bool:
    """Whether a comparison was begun there and never completed."""
    return bool(read_json(out / COMPARISON_FILE, COMPARISON_SCHEMA)["status"] == "running")


def comparison_rows(results: dict[str, list[DistillResult]]) -> list[dict[str, Any]]:
    """A row per method and stage: accuracy of each seed, mean and 95 % interval, and the paired difference to dho."""
    values: dict[tuple[str, str], list[float]] = {}
    # The teacher is the same in every method, but kd's has no labels for an adapter.
    of_teacher = next((method for method in results if method not in {"ce", "kd"}), "kd")
    for method, runs in results.items():
        for result in runs:
            for row in result.summary["test"]:
                if row["stage"] == "teacher" and method != of_teacher:
                    continue
                key = ("teacher" if row["stage"] == "teacher" else method, row["stage"])
                values.setdefault(key, []).append(row["accuracy"])
    reference = values.get(("dho", "dho"))
    rows = []
    for (method, stage), accuracies in values.items():
        row = {"method": method, "stage": stage, "accuracies": accuracies, **mean_interval(accuracies)}
        if reference is not None and CHOSEN.get(method) == stage and method != "dho":
            row["minus_dho"] = mean_interval([a - b for a, b in zip(accuracies, reference, strict=True)])
        rows.append(row)
    return rows
