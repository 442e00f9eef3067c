"""What a class that dhox add-class adds is worth against a full retraining: python benchmarks/add_class.py [DATA]

python benchmarks/add_class.py --work runs/add-class                    # the demo's images; half an hour
python benchmarks/add_class.py LIST.csv --teacher-embeddings Z.npy --class-embeddings W.npy --teacher-scale 15 \
    --shots 4 --leave-out 5 --draws 3 --student resnet10t --image-size 32 --epochs 5 --adapter probe

Each draw leaves some classes out of DATA and trains the run `base`; `retrain` is the same training with ten labelled
images of each of them more (and none else of them in train or val). add-class gets the run `base` and the same ten
images. Recall of the new classes and accuracy of the old ones are of DATA's test images. `--max-accuracy-drop`: of
add-class. Finished trainings in WORK are used again.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

import dhox
from dhox.artefacts.run_directory import open_run
from dhox.data.dataset import Item, Splits, read_dataset
from dhox.data.manifest import write_manifest
from dhox.demo.data import write_image_folder
from dhox.demo.run import RECIPE
from dhox.distill.growing.add_class import add_class
from dhox.distill.results.evaluate import pixel_loader, predict_logits
from dhox.distill.small_options import AddClassOptions
from dhox.distill.students.student import load_student
from dhox.evidence.dho_inference import dho_probs
from dhox.evidence.statistics import mean_interval, softmax
from dhox.options.declare import build

IMAGES = 10  # of a new class
FEWEST = 15, 8  # training and test images of a class that is left out


@dataclass(frozen=True)
class Draw:
    """DATA without the classes `new`, and with ten labels of each: manifests, class lists and runs in `place`."""

    place: Path
    classes: list[str]
    new: list[str]
    test: list[Item]

    @property
    def old(self) -> list[str]:
        """The other classes, in order."""
        return [name for name in self.classes if name not in self.new]


@dataclass(frozen=True)
class Score:
    """Accuracy of the old classes on test, and recall of each new one, in %."""

    old: float
    recalls: list[float]


def train(draw: Draw, splits: Splits, name: str, options: argparse.Namespace, seed: int) -> Path:
    """The run of this name, made once."""
    run, listed = draw.place / name, draw.place / f"{name}.csv"
    labels = draw.classes if name == "retrain" else draw.old
    listed.parent.mkdir(parents=True, exist_ok=True)
    (draw.place / f"{name}.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    write_manifest(listed, splits)
    if (run / "run.json").exists():
        return run
    teacher: dict[str, object] = {"teacher": options.teacher}
    if options.teacher_embeddings:
        z, w = np.load(options.teacher_embeddings), np.load(options.class_embeddings)
        np.save(draw.place / f"{name}-z.npy", z[[item.row for items in splits.values() for item in items]])
        np.save(draw.place / f"{name}-w.npy", w[[draw.classes.index(label) for label in labels]])
        teacher = {
            "teacher_embeddings": draw.place / f"{name}-z.npy", "class_embeddings": draw.place / f"{name}-w.npy",
            "teacher_scale": options.teacher_scale,
        }  # fmt: skip
    dhox.distill(  # type: ignore[operator]
        listed, run, classes=draw.place / f"{name}.txt", label_fraction=1.0, seed=seed, log="csv",
        cache=options.work / "cache", **teacher, **options.student_options,
    )  # fmt: skip
    return run


def prepare(options: argparse.Namespace, number: int) -> tuple[Draw, Path, Path]:
    """A draw with its two trained runs; the new images lie in PLACE/new/CLASS."""
    splits = read_dataset(options.data)
    classes = sorted({str(item.label) for item in splits["train"]})
    random_of_draw = random.Random(number)
    if options.data_is_demo:
        order = [*classes]
        random.Random(7).shuffle(order)  # the draws 0 to 4 leave out every class once
        new = [order[(options.leave_out * number + i) % len(order)] for i in range(options.leave_out)]
    else:
        counts = {split: [item.label for item in splits[split]] for split in ("train", "test")}
        fewest = dict(zip(counts, FEWEST, strict=True))
        large = [name for name in classes if all(counts[split].count(name) >= fewest[split] for split in counts)]
        new = random_of_draw.sample(large, options.leave_out)
    labelled: set[str] = set()
    draw = Draw(options.work / f"{number}", classes, new, splits["test"])
    for name in classes:
        items = [item for item in splits["train"] if item.label == name]
        random_of_draw.shuffle(items)
        chosen = items[: IMAGES if name in new else options.shots]
        labelled |= {item.name for item in chosen}
        if name in new:
            folder = draw.place / "new" / name
            folder.mkdir(parents=True, exist_ok=True)
            for item in chosen:
                if not (folder / item.path.name).exists():
                    (folder / item.path.name).symlink_to(item.path.absolute())

    def parts(with_new: bool) -> Splits:
        """DATA's images as the training may see them."""
        found: Splits = {"train": [], "unlabelled": [], "val": [], "test": []}
        for split, items in splits.items():
            for item in items:
                shown = split != "train" or item.name in labelled
                if item.label in new and (not with_new or split == "val" or not shown):
                    continue
                label = item.label if shown else None
                found[split if label else "unlabelled"].append(replace(item, label=label))
        return found

    base, retrain = (train(draw, parts(name == "retrain"), name, options, number) for name in ("base", "retrain"))
    return draw, base, retrain


def score(run: Path, draw: Draw) -> Score:
    """What the student of a run answers to all of DATA's test images."""
    opened = open_run(run)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    student = load_student(run, opened.run.student)
    pixels = pixel_loader(draw.test, opened.run.preprocessing, 0, fabric)
    found = predict_logits(fabric, student, pixels, len(draw.test), opened.run.preprocessing)
    probs = softmax(found.ce_logits)
    if opened.run.student.two_heads:
        probs = dho_probs(found.ce_logits, found.kd_logits, opened.selection.alpha, opened.selection.beta)
    answers = np.array(opened.run.labels)[probs.argmax(-1)]
    truth = np.array([item.label for item in draw.test])
    right = answers == truth
    return Score(100 * right[np.isin(truth, draw.old)].mean(), [100 * right[truth == name].mean() for name in draw.new])


def added(run: Path, name: str, out: Path, draw: Draw, drop: float | None) -> tuple[Path, float, float]:
    """A class added by the command's function: (the new run, seconds of the clock, seconds on a core)."""
    given = build(
        AddClassOptions, images=draw.place / "new" / name, overwrite=True, workers=0, device="cpu",
        max_accuracy_drop=drop,
    )  # fmt: skip
    start, core = time.perf_counter(), time.process_time()
    add_class(run, name, out, given)
    return out, time.perf_counter() - start, time.process_time() - core


def measure(draw: Draw, base: Path, retrain: Path, drop: float | None) -> dict[str, list[float]]:
    """What one draw says: each class added alone to the base, and all of them one after the other."""
    before, again = score(base, draw), score(retrain, draw)
    alone, seconds = [], []
    for number, name in enumerate(draw.new):
        run, *times = added(base, name, draw.place / "alone", draw, drop)
        after = score(run, draw)
        alone.append((after.old - before.old, after.recalls[number]))
        seconds.append(times)
    run = base
    for number, name in enumerate(draw.new):
        run = added(run, name, draw.place / f"grown-{number}", draw, drop)[0]
    grown = score(run, draw)
    for number, name in enumerate(draw.new):
        print(
            f"  {name:16} alone: recall {alone[number][1]:5.1f}, old {alone[number][0]:+5.1f}; all: recall "
            f"{grown.recalls[number]:5.1f}, retrained {again.recalls[number]:5.1f}; {seconds[number][0]:.0f} s, "
            f"{seconds[number][1]:.0f} s on a core",
            flush=True,
        )
    print(f"  old classes {before.old:.1f}; all added {grown.old:.1f}, retrained {again.old:.1f}", flush=True)
    return {
        "recall, alone": [recall for _, recall in alone], "old classes, alone": [change for change, _ in alone],
        "recall, all added": [float(np.mean(grown.recalls))], "recall, retrained": [float(np.mean(again.recalls))],
        "recall, all added - retrained": [float(np.mean(grown.recalls) - np.mean(again.recalls))],
        "old classes, all added": [grown.old - before.old], "old classes, retrained": [again.old - before.old],
        "old classes, all added - retrained": [grown.old - again.old],
        "seconds on a core": [core for _, core in seconds],
    }  # fmt: skip


def summary(values: list[float]) -> str:
    """The mean with its 95 % interval (Student's t), and the extremes."""
    mean, interval = mean_interval(values)
    within = f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else ""
    return f"{mean:6.1f}{within}; {min(values):.1f} to {max(values):.1f}, n = {len(values)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="their numbers")
    parser.add_argument("--leave-out", type=int, default=2)
    parser.add_argument("--shots", type=int, default=16, help="labels of each old class")
    parser.add_argument("--max-accuracy-drop", type=float)
    parser.add_argument("--teacher-embeddings", type=Path)
    parser.add_argument("--class-embeddings", type=Path)
    parser.add_argument("--teacher-scale", type=float)
    parser.add_argument("--teacher")
    parser.add_argument("--student", default=RECIPE["student"])
    parser.add_argument("--image-size", type=int, default=RECIPE["image_size"])
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"])
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--adapter", default="none")
    options = parser.parse_args()
    options.data_is_demo = options.data is None
    with tempfile.TemporaryDirectory() as folder:
        options.work = options.work or Path(folder)
        rate = options.learning_rate or (RECIPE["learning_rate"] if options.data_is_demo else 1e-3)
        if options.data is None:
            options.data = options.work / "demo-data"
            write_image_folder(options.data)
            options.teacher = f"local-dir:{options.data / 'teacher'}"
        options.student_options = {
            "student": options.student, "student_weights": "none", "image_size": options.image_size,
            "epochs": options.epochs, "learning_rate": rate, "adapter": options.adapter,
        }  # fmt: skip
        found: dict[str, list[float]] = {}
        for number in options.draws:
            print(f"draw {number}", flush=True)
            for what, values in measure(*prepare(options, number), options.max_accuracy_drop).items():
                found.setdefault(what, []).extend(values)
        for what, values in found.items():
            print(f"{what:36} {summary(values)}")


if __name__ == "__main__":
    main()
