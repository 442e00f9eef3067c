"""The demo's accuracies over seeds, shots and ways to choose alpha and beta (docs/demo.md shows the table).

    python benchmarks/demo_accuracy.py

A seed changes which images are labelled, the student's weights, the order and the views. `held-out` hides the 1,000
validation images: alpha and beta then come from 20 % of the labelled images, or stay at (0.4, 0.5) where these are few.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from pathlib import Path

from dhox.demo.data import write_image_folder
from dhox.demo.run import RECIPE
from dhox.distill.run import distill

SEEDS = (0, 1, 2)
CASES = [(16, "dho", "val"), (16, "ce", "val"), (16, "dho", "held-out"), (4, "dho", "val"), (1, "dho", "val")]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_image_folder(root / "val")
        write_image_folder(root / "held-out")
        shutil.rmtree(root / "held-out/val")
        print("labels per class, method, chosen on: stage: accuracy on test in %, mean (each seed)")
        for shots, method, chosen_on in CASES:
            stages: dict[str, list[float]] = {}
            for seed in SEEDS:
                result = distill(
                    root / chosen_on, root / "run", teacher=f"local-dir:{root / 'val/teacher'}", method=method,
                    shots=shots, seed=seed, split_seed=seed, overwrite=True, **RECIPE,
                )  # fmt: skip
                for row in result.summary["test"]:
                    stages.setdefault(row["stage"], []).append(100 * row["accuracy"])
            for stage, values in stages.items():
                each = ", ".join(f"{value:.1f}" for value in values)
                case = f"{shots:2} {method} {chosen_on} ({result.selection['n_selection_labels']} labels)"
                print(f"{case}: {stage}: {statistics.mean(values):.1f} ({each})", flush=True)


if __name__ == "__main__":
    main()
