"""How many views per image the teacher cache needs: DHO's accuracy on the demo data over V, with what the cache costs.

python benchmarks/teacher_views.py               # V = 1, 2, 4, 8, 16, 32; 4 shots; 3 seeds
python benchmarks/teacher_views.py --views 1 8 --seeds 1
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import dhox
from dhox.demo.data import write_image_folder
from dhox.demo.run import RECIPE
from dhox.distill.teachers.cache_upkeep import entries
from dhox.evidence.statistics import mean_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_image_folder(root / "data")
        print(f"{options.shots} labels per class, {options.epochs} epochs; accuracy on test in %, mean (each seed)")
        for views in options.views:
            accuracies = []
            for seed in range(options.seeds):
                result = dhox.distill(
                    root / "data", root / "run", teacher=f"local-dir:{root / 'data/teacher'}", shots=options.shots,
                    seed=seed, split_seed=seed, views=views, cache=root / "cache", overwrite=True,
                    **RECIPE | {"epochs": options.epochs},
                )  # fmt: skip
                accuracies.append(next(row.accuracy for row in result.summary.test if row.stage == "dho"))
                used = result.summary.training.views
            mean, each = mean_interval(accuracies)[0], ", ".join(f"{100 * value:.1f}" for value in accuracies)
            size = sum(e.bytes for e in entries(root / "cache", checksums=False) if e.folder.name.endswith("views"))
            print(
                f"V = {used:2}: {100 * mean:.1f} ({each}); {used * 6000:,} passes, {size / 1e6:.1f} MB",
                flush=True,
            )
            for entry in entries(root / "cache", checksums=False):
                if entry.folder.name.endswith("views"):
                    shutil.rmtree(entry.folder)


if __name__ == "__main__":
    main()
