"""What twice the steps add, beside the slope that the shorter training ends with (DOUBLING of evidence/learning_curve).

python benchmarks/longer_training.py                                    # the demo's images, 10 against 20 epochs
python benchmarks/longer_training.py DATA --common "--student resnet10t --student-weights none --image-size 32"

Both on validation: the slope (see dhox.evidence.learning_curve) and the gain, in points, and their ratio. Trainings lie
in OUT and are kept, as those of benchmarks/accuracy.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from accuracy import Plan, Recipe

from dhox.artefacts.metrics import METRICS_FILE, read_metrics
from dhox.evidence.learning_curve import slope_at_the_end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--common", default="", help="options of every training")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10, help="of the shorter training, at least 8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/longer"))
    options = parser.parse_args()
    plan = Plan.of(options.data, options.common, options.out)
    lengths = [Recipe(f"{n}-epochs", ["--epochs", str(n)]) for n in (options.epochs, 2 * options.epochs)]
    print("| seed | slope, points per doubling (95 %) | gain of twice the steps | ratio |\n| --- | --- | --- | --- |")
    for seed in range(options.seeds):
        curves = []
        for length in lengths:
            plan.accuracy(length, options.shots, seed)
            curves.append(read_metrics(plan.run(length, options.shots, seed) / METRICS_FILE).validation or [])
        slope = slope_at_the_end(curves[0])
        if slope is None:
            raise SystemExit("The slope needs at least 8 epochs, and validation images.")
        gain = 100 * (curves[1][-1] - curves[0][-1])
        low, high = slope.interval
        ratio = f"{gain / slope.points:.2f}" if slope.rising else "no rise"
        print(f"| {seed} | {slope.points:+.1f} ({low:+.1f} to {high:+.1f}) | {gain:+.1f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
