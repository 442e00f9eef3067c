"""Which recipe makes the better student: recipes x shots x seeds, each paired with the first recipe.

python benchmarks/accuracy.py                       # the demo's images: a smoke test of some minutes
python benchmarks/accuracy.py DATA --common "--student resnet10t --student-weights none --image-size 32" --shots 1 4
python benchmarks/accuracy.py DATA --recipe "long: --epochs 60" --recipe "slow: --learning-rate 1e-3" --out runs/a

A recipe is a name and options of `dhox distill`; `plain` has none, and every other one is compared with it on the same
labelled images (seed i draws with --split-seed i). Options of --common win over a recipe file's: repeat those that a
recipe is to set. Trainings lie in OUT/RECIPE-SHOTS-SEED and are kept: the command started again goes on where it was
stopped, and a new recipe trains itself alone. Accuracy is that of the method on test, where DATA has one. Intervals are
Student's t over seeds, of the paired differences.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dhox.artefacts.run import read_run
from dhox.demo.data import write_image_folder
from dhox.distill.compare_methods import CHOSEN
from dhox.errors import DhoxError
from dhox.evidence.statistics import mean_interval
from dhox.system.environment import now
from dhox.system.machine import cpu_model

RECIPES = [
    "plain:", "zero-shot teacher: --adapter none",
    "dho-paper: --recipe dho-paper --epoch-over unlabelled --epochs 8 --learning-rate 1e-3",  # as many images as plain
]  # fmt: skip
DEMO = "--student test_resnet --student-weights none --image-size 28 --epochs 10 --learning-rate 3e-3"


@dataclass(frozen=True)
class Recipe:
    """A name and the options of `dhox distill` that make it."""

    name: str
    options: list[str]

    @classmethod
    def of(cls, text: str) -> Recipe:
        """NAME: OPTIONS."""
        name, colon, options = text.partition(":")
        if not colon or not name.strip():
            raise SystemExit(f"--recipe {text!r} is no NAME: OPTIONS.")
        return cls(name.strip(), shlex.split(options))


@dataclass(frozen=True)
class Plan:
    """What is trained where."""

    data: Path
    common: list[str]
    out: Path

    @classmethod
    def of(cls, data: Path | None, common: str, out: Path) -> Plan:
        """Of DATA, or of the demo's images in `out` where none is given. `common`: options of every training."""
        words = shlex.split(common)
        if data is None:
            data = out / "demo"
            write_image_folder(data)
            words = [*shlex.split(DEMO), "--teacher", f"local-dir:{data / 'teacher'}", *words]
        return cls(data, words, out)

    def run(self, recipe: Recipe, shots: int, seed: int) -> Path:
        """Where a training lies."""
        return self.out / f"{recipe.name}-{shots}-{seed}"

    def accuracy(self, recipe: Recipe, shots: int, seed: int) -> float:
        """Test accuracy in % of one training, which is made where it is not there yet."""
        run = self.run(recipe, shots, seed)
        if not finished(run):
            command = [str(Path(sys.executable).with_name("dhox")), "distill", str(self.data), "--out", str(run),
                       "--shots", str(shots), "--seed", str(seed), "--split-seed", str(seed), "--log", "csv",
                       "--cache", str(self.out / "cache"), "--overwrite", *self.common, *recipe.options]  # fmt: skip
            done = subprocess.run(command, text=True, capture_output=True, check=False)
            if done.returncode:
                raise SystemExit(f"{shlex.join(command)}\n{done.stderr}")
        summary = read_run(run)
        found = {row.stage: row.accuracy for row in summary.test or []}
        if not found:
            raise SystemExit(f"{self.data} has no test images.")
        return 100 * found[CHOSEN[summary.method]]


def finished(run: Path) -> bool:
    """Whether a training is there, whole."""
    try:
        read_run(run)
    except DhoxError:
        return False
    return True


def row(name: str, values: list[float], plain: list[float]) -> str:
    """One line of the table: mean accuracy, and the paired difference to the first recipe with its 95 % interval."""
    mean, _ = mean_interval(values)
    text = f"| {name} | {mean:.1f} |"
    if values is plain:
        return f"{text} | |"
    differences = [a - b for a, b in zip(values, plain, strict=True)]
    gain, interval = mean_interval(differences)
    within = f" ({interval[0]:+.1f} to {interval[1]:+.1f})" if interval else ""
    return f"{text} {gain:+.1f}{within} | {min(differences):+.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--recipe", action="append", help='"NAME: OPTIONS of dhox distill", besides plain; repeatable')
    parser.add_argument("--common", default="", help="options of every training")
    parser.add_argument("--shots", type=int, nargs="+", default=[4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    options = parser.parse_args()
    recipes = [Recipe.of(text) for text in (RECIPES if options.recipe is None else ["plain:", *options.recipe])]
    plan = Plan.of(options.data, options.common, options.out)
    print(f"{now()[:10]}, {cpu_model()}; {options.seeds} seeds; {shlex.join(plan.common)}")
    for shots in options.shots:
        print(
            f"\n| {shots} per class | test accuracy | to {recipes[0].name} (95 %) | least |\n| --- | --- | --- | --- |"
        )
        plain: list[float] = []
        for recipe in recipes:
            values = [plan.accuracy(recipe, shots, seed) for seed in range(options.seeds)]
            plain = plain or values
            print(row(recipe.name, values, plain), flush=True)


if __name__ == "__main__":
    main()
