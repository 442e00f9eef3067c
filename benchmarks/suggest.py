"""What choosing the images to label is worth, to a probe and to DHO students: python benchmarks/suggest.py [DATA ...]

python benchmarks/suggest.py                                  # the demo's images; a linear probe at the class texts
python benchmarks/suggest.py --picture docs/suggest.png
python benchmarks/suggest.py --students --per-class 1 4       # DHO students as well; an hour and more
python benchmarks/suggest.py DATA --teacher-embeddings Z.npy --class-embeddings W.npy --teacher-scale 100

DATA's labels of train are hidden, and shown for the images that a selector chooses. Its test images judge (its val
images, where it has no test). Each seed is paired with random choice of the same seed.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import dhox
from dhox.data.dataset import Item, class_numbers
from dhox.demo.data import write_image_folder
from dhox.distill.auditing.linear_probe import fit_probe
from dhox.distill.images.listing import list_images, look
from dhox.distill.images.sets import without_copies
from dhox.distill.options import Teacher
from dhox.distill.small_options import SuggestMachine
from dhox.distill.suggesting.embeddings import load_embedding_files, load_eyes
from dhox.distill.suggesting.selectors import at_random, coreset, farthest_first, typiclust
from dhox.distill.suggesting.space import Space
from dhox.distill.suggesting.suggest import group_numbers
from dhox.distill.teachers.text_probe import fit_text_probe
from dhox.evidence.statistics import mean_interval


def margin(space: Space, n: int, generator: torch.Generator) -> list[int]:
    """The smallest differences of the teacher's two highest probabilities."""
    first, second = space.probs(space.pile).topk(2).values.T
    return (first - second).argsort(stable=True)[:n].tolist()


def pcoreset(space: Space, n: int, generator: torch.Generator) -> list[int]:
    """k-centre greedy on the teacher's probabilities: PCoreSet (arXiv 2506.00910) before there is a student."""
    return farthest_first(space, space.probs, n, generator)


SELECTORS: dict[str, Callable[[Space, int, torch.Generator], list[int]]] = {
    "random": at_random, "typiclust": typiclust, "coreset": coreset, "pcoreset": pcoreset, "margin": margin,
}  # fmt: skip


TITLES = {"probe": "probe at the class texts (--adapter probe)", "labels alone": "probe on the labels alone"}


@dataclass(frozen=True, eq=False)
class Simulation:
    """DATA with its labels hidden: the pile and those that judge, with embeddings and class numbers."""

    data: Path
    teacher: Teacher
    classes: list[str]
    pile: list[Item]
    space: Space
    labels: np.ndarray
    judges: torch.Tensor
    truth: np.ndarray

    @classmethod
    def of(cls, data: Path, teacher: Teacher, cache: Path) -> Simulation:
        """Of DATA with labels in train."""
        listing = list_images(data, tell=False)
        images = look(listing, skip_bad_images=False, cache=cache, tell=False)
        eyes = load_embedding_files(teacher, listing) or load_eyes(
            teacher, SuggestMachine(cache=cache), listing, images
        )
        splits = images.splits
        judging = splits["test"] or splits["val"]
        pile = without_copies(splits["train"], {images.content[item.name] for item in judging}, images.content)
        space = Space(eyes.embeddings(pile), eyes.text, eyes.scale, group_numbers(pile), 0)
        of = [class_numbers(items, listing.labels) for items in (pile, judging)]
        return cls(data, teacher, listing.labels, pile, space, of[0], eyes.embeddings(judging).float(), of[1])

    def probe(self, rows: list[int]) -> tuple[float, float]:
        """(accuracy, balanced accuracy) of the text-anchored probe on the chosen images, in %."""
        labels, units = torch.from_numpy(self.labels[rows]), [self.pile[i].name for i in rows]
        nothing = (torch.zeros(0, self.judges.shape[1]), torch.zeros(0, dtype=torch.long))
        z = self.space.z[rows].float()[:, None]
        found = fit_text_probe(z, labels, self.space.text, self.space.scale, nothing, units)
        return self.score(found.logits(self.judges).argmax(-1).numpy())

    def labels_alone(self, rows: list[int]) -> tuple[float, float]:
        """The same of a linear probe that knows nothing of the class texts."""
        z, labels = self.space.z[rows].float(), torch.from_numpy(self.labels[rows])
        return self.score(fit_probe(z, labels, len(self.classes), 1e-4).predict(self.judges).numpy())

    def score(self, answers: np.ndarray) -> tuple[float, float]:
        """(accuracy, balanced accuracy) of class numbers, in %."""
        right = answers == self.truth
        return 100 * right.mean(), 100 * float(np.mean([right[self.truth == c].mean() for c in np.unique(self.truth)]))

    def student(self, rows: list[int], seed: int, folder: Path, options: dict[str, object]) -> float:
        """Accuracy in % of a DHO student whose labels are the chosen images."""
        pile, labels, classes = folder / "pile.csv", folder / "labels.csv", folder / "classes.txt"
        classes.write_text("\n".join(self.classes) + "\n", encoding="utf-8")
        names = {item.name: item for item in self.pile}
        listing = list_images(self.data, tell=False)
        everything = [(split, item) for split, items in listing.splits.items() for item in items]
        everything.sort(key=lambda pair: -1 if pair[1].row is None else pair[1].row)
        with pile.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "split", "name"])
            for split, item in everything:
                shown = split if split in {"val", "test"} else "unlabelled"
                label = "" if shown == "unlabelled" or item.name in names else item.label
                writer.writerow([item.path.absolute(), label, shown, item.name])
        with labels.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "name"])
            writer.writerows([self.pile[i].path.absolute(), self.pile[i].label, self.pile[i].name] for i in rows)
        given = {
            name: getattr(self.teacher, name) for name in ("teacher_embeddings", "class_embeddings", "teacher_scale")
        }
        teacher = given if self.teacher.from_files else {"teacher": self.teacher.teacher}
        result = dhox.distill(  # type: ignore[operator]
            pile, folder / "run", labels=labels, classes=classes, seed=seed, tune_on="none", cache=folder / "cache",
            overwrite=True, log="csv", **teacher, **options,
        )  # fmt: skip
        return 100 * next(row.accuracy for row in result.summary.test if row.stage == "dho")


def cells(simulation: Simulation, options: argparse.Namespace) -> Iterator[tuple[str, int, str, np.ndarray]]:
    """(selector, labels, what was measured, values [seeds]) of every cell."""
    for per_class in options.per_class:
        n = min(per_class * len(simulation.classes), len(simulation.pile))
        for name in options.by:
            chosen = [
                SELECTORS[name](simulation.space, n, torch.Generator().manual_seed(seed))
                for seed in range(options.seeds)
            ]
            for what, judge in (("probe", simulation.probe), ("labels alone", simulation.labels_alone)):
                found = np.array([judge(rows) for rows in chosen])
                yield name, n, what, found[:, 0]
                yield name, n, f"{what}, balanced", found[:, 1]
            if options.students and name in {"random", "typiclust"}:
                with tempfile.TemporaryDirectory() as folder:
                    values = [
                        simulation.student(rows, seed, Path(folder), vars(options)["student_options"])
                        for seed, rows in enumerate(chosen)
                    ]
                yield name, n, "DHO student", np.array(values)


def line(name: str, n: int, what: str, values: np.ndarray, random: np.ndarray) -> str:
    """One cell as text: the mean, and the paired difference to random with its 95 % interval."""
    text = f"{n:5} labels  {name:10} {what:22} {values.mean():5.1f}"
    if name == "random":
        return text
    gain, interval = mean_interval(list(values - random))
    within = f" ({interval[0]:+.1f} to {interval[1]:+.1f})" if interval else ""
    return f"{text}  {gain:+5.1f}{within}, least {float((values - random).min()):+.1f}"


def draw(found: dict[tuple[str, int, str], np.ndarray], file: Path, title: str) -> None:
    """Curves of the probe with 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for axis, what in zip(axes, ("probe", "labels alone"), strict=True):
        for name in dict.fromkeys(name for name, *_ in found):
            points = sorted((n, values) for (of, n, kind), values in found.items() if of == name and kind == what)
            means = [mean_interval(list(values)) for _, values in points]
            low = [mean - (interval[0] if interval else mean) for mean, interval in means]
            style = {"color": "0.4", "linestyle": "--"} if name == "random" else {}
            axis.errorbar(
                [n for n, _ in points], [mean for mean, _ in means], low, marker="o", ms=3, label=name, **style
            )
        axis.set(xscale="log", xlabel="labels", ylabel="accuracy, %", title=TITLES[what])
        axis.set_xticks(ticks := sorted({n for _, n, _ in found}), [str(n) for n in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.2)
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--teacher", default=Teacher().teacher)
    parser.add_argument("--teacher-embeddings", type=Path)
    parser.add_argument("--class-embeddings", type=Path)
    parser.add_argument("--teacher-scale", type=float)
    parser.add_argument("--per-class", type=int, nargs="+", default=[1, 2, 4, 8], help="labels, on average")
    parser.add_argument("--by", nargs="+", choices=SELECTORS, default=[*SELECTORS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--students", action="store_true", help="train DHO students too, of random and typiclust")
    parser.add_argument("--adapter", default="probe", choices=["none", "probe"], help="of the students' teacher")
    parser.add_argument("--student", default="resnet10t", help="any timm model; it starts from random weights")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    options.student_options = {
        "student": options.student, "student_weights": "none", "image_size": options.image_size,
        "epochs": options.epochs, "learning_rate": options.learning_rate, "adapter": options.adapter,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        data, teacher = options.data, options.teacher
        if data is None:
            data = Path(folder) / "demo"
            write_image_folder(data)
            teacher = f"local-dir:{data / 'teacher'}"
        of_training = Teacher(
            teacher=teacher, teacher_embeddings=options.teacher_embeddings, class_embeddings=options.class_embeddings,
            teacher_scale=options.teacher_scale,
        )  # fmt: skip
        simulation = Simulation.of(data, of_training, options.cache or Path(folder) / "cache")
        zero_shot = simulation.score((simulation.judges @ simulation.space.text.T).argmax(-1).numpy())
        words = f"{len(simulation.pile):,} images of {len(simulation.classes)} classes, {options.seeds} seeds"
        print(f"{words}; zero-shot {zero_shot[0]:.1f}, balanced {zero_shot[1]:.1f}", flush=True)
        found: dict[tuple[str, int, str], np.ndarray] = {}
        for name, n, what, values in cells(simulation, options):
            found[name, n, what] = values
            print(line(name, n, what, values, found.get(("random", n, what), values)), flush=True)
        if options.picture:
            draw(found, options.picture, words)


if __name__ == "__main__":
    main()
