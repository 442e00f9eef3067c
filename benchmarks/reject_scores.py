"""Which score tells an image of no class from the others: top probability, energy, or a distance between features.

    python benchmarks/reject_scores.py --work runs/reject                      # the demo's images
    python benchmarks/reject_scores.py LIST.csv --teacher-embeddings Z.npy --class-embeddings W.npy \\
        --teacher-scale 15 --image-size 32

Each of five folds leaves a fifth of the classes out of DATA, trains a student of the others (their images alone,
labelled and not), and asks it about all test images. A score is judged by its AUROC: the chance that an image of a
class that it knows scores higher than one of a class that was left out. Trainings in WORK are kept and used again.

Energy is log(sum(exp(logits))) (Liu et al. 2020, arXiv 2010.03759); Mahalanobis is the distance to the nearest class
mean under one covariance (Lee et al. 2018, arXiv 1807.03888); the cosine to the nearest class is that to a mean's
direction, the cosine to the tenth neighbour that to a training image (Sun et al. 2022, arXiv 2204.06507). Classes of
training images are the student's own answers, since few have labels.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

import dhox
from dhox.artefacts.run_directory import open_run
from dhox.bench.drift.unlike import unit
from dhox.data.dataset import Item, Splits, read_dataset
from dhox.data.manifest import write_manifest
from dhox.demo.data import write_image_folder
from dhox.distill.images.pixels import to_model
from dhox.distill.results.evaluate import pixel_loader
from dhox.distill.students.student import load_student
from dhox.evidence.dho_inference import dho_probs
from dhox.evidence.statistics import mean_interval, softmax
from dhox.system.environment import now
from dhox.system.machine import cpu_model

FOLDS = 5
NEIGHBOUR = 10
RIDGE = 1e-3  # of the mean variance, added to every one


@dataclass(frozen=True)
class Answers:
    """Of n images: features z [n, d], both heads' logits [n, c], and the method's probabilities [n, c]."""

    z: np.ndarray
    ce_logits: np.ndarray
    kd_logits: np.ndarray
    probs: np.ndarray


def answers(run: Path, items: list[Item]) -> Answers:
    """What the student of a run says of whole images."""
    opened = open_run(run)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    student = load_student(run, opened.run.student).eval()
    preprocessing = opened.run.preprocessing
    parts = []
    with torch.inference_mode():
        for batch in pixel_loader(items, preprocessing, 0, fabric):
            z = student.backbone(to_model(batch, preprocessing.mean, preprocessing.std))
            parts.append([part.numpy() for part in (z, *student.logits(z))])
    z, ce, kd = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Answers(z, ce, kd, dho_probs(ce, kd, opened.selection.alpha, opened.selection.beta))


def energy(logits: np.ndarray) -> np.ndarray:
    """log(sum(exp(logits))) of each row."""
    return torch.from_numpy(logits).logsumexp(-1).numpy()


def class_means(train: Answers) -> tuple[np.ndarray, np.ndarray]:
    """The mean feature of each class that is answered, [k, d], and the answer of each image, numbered so."""
    answered, of_image = np.unique(train.probs.argmax(-1), return_inverse=True)
    return np.stack([train.z[of_image == k].mean(0) for k in range(len(answered))]), of_image


def mahalanobis(train: Answers, test: Answers) -> np.ndarray:
    """Minus the squared distance to the nearest class mean, under the covariance within the classes."""
    means, of_image = class_means(train)
    covariance = np.cov((train.z - means[of_image]).T)
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whiten = np.linalg.cholesky(np.linalg.inv(covariance))
    distances = ((test.z @ whiten)[:, None] - (means @ whiten)[None]) ** 2
    return np.asarray(-distances.sum(-1).min(-1))


def nearest_mean(train: Answers, test: Answers) -> np.ndarray:
    """The cosine to the nearest class mean."""
    return np.asarray((unit(test.z) @ unit(class_means(train)[0]).T).max(-1))


def neighbour(train: Answers, test: Answers) -> np.ndarray:
    """The cosine to the tenth nearest training image."""
    return np.asarray(np.sort(unit(test.z) @ unit(train.z).T, -1)[:, -NEIGHBOUR])


SCORES: dict[str, Callable[[Answers, Answers], np.ndarray]] = {
    "top probability": lambda _, test: test.probs.max(-1),
    "top probability, CE head": lambda _, test: softmax(test.ce_logits).max(-1),
    "top probability, KD head": lambda _, test: softmax(test.kd_logits).max(-1),
    "largest logit, CE head": lambda _, test: test.ce_logits.max(-1),
    "energy, CE head": lambda _, test: energy(test.ce_logits),
    "energy, KD head": lambda _, test: energy(test.kd_logits),
    "energy, both heads": lambda _, test: energy(test.ce_logits) + energy(test.kd_logits),
    "|z|": lambda _, test: np.linalg.norm(test.z, axis=-1),
    "Mahalanobis": mahalanobis,
    "cosine to the nearest class": nearest_mean,
    "cosine to the 10th neighbour": neighbour,
}


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """The chance that a known image scores above an unknown one; ties count half."""
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, "left") + np.searchsorted(ordered, known, "right")
    return float(below.mean() / 2 / len(unknown))


def train(fold: Path, data: Splits, classes: list[str], kept: list[str], options: argparse.Namespace) -> Path:
    """The run of a fold: on the images of the classes `kept` of `classes`, which are in order. Made once."""
    run = fold / "run"
    if (run / "run.json").exists():
        return run
    fold.mkdir(parents=True, exist_ok=True)
    (fold / "classes.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    splits = {split: [item for item in data[split] if item.label in kept] for split in ("train", "val")}
    write_manifest(fold / "images.csv", splits)
    teacher: dict[str, object] = {"teacher": options.teacher}
    if options.teacher_embeddings:
        rows = [item.row for items in splits.values() for item in items]
        np.save(fold / "z.npy", np.load(options.teacher_embeddings)[rows])
        np.save(fold / "w.npy", np.load(options.class_embeddings)[[classes.index(name) for name in kept]])
        teacher = {"teacher_embeddings": fold / "z.npy", "class_embeddings": fold / "w.npy",
                   "teacher_scale": options.teacher_scale}  # fmt: skip
    dhox.distill(  # type: ignore[operator]
        fold / "images.csv", run, classes=fold / "classes.txt", shots=options.shots, student=options.student,
        student_weights="none", image_size=options.image_size, epochs=options.epochs, log="csv",
        cache=options.work / "cache", **teacher,
    )  # fmt: skip
    return run


def measure(number: int, data: Splits, options: argparse.Namespace) -> dict[str, float]:
    """The AUROC in % of every score, in one fold."""
    classes = sorted({str(item.label) for item in data["train"]})
    shuffled = [*classes]
    random.Random(0).shuffle(shuffled)
    left_out = shuffled[number::FOLDS]
    kept = [name for name in classes if name not in left_out]
    run = train(options.work / f"{number}", data, classes, kept, options)
    seen = [item for item in data["train"] if item.label in kept]
    trained, tested = answers(run, seen), answers(run, data["test"])
    is_known = np.array([item.label in kept for item in data["test"]])
    truth = np.array([str(item.label) for item in data["test"]])
    answer = np.array(open_run(run).run.labels)[tested.probs.argmax(-1)]
    right = 100 * (answer == truth)[is_known].mean()
    print(f"fold {number}: {len(left_out)} classes left out, accuracy of the others {right:.1f} %", flush=True)
    scores = {name: score(trained, tested) for name, score in SCORES.items()}
    return {name: 100 * auroc(values[is_known], values[~is_known]) for name, values in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/reject"))
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--student", default="test_resnet")
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--teacher")
    parser.add_argument("--teacher-embeddings", type=Path)
    parser.add_argument("--class-embeddings", type=Path)
    parser.add_argument("--teacher-scale", type=float)
    options = parser.parse_args()
    if options.data is None:
        options.data = options.work / "demo-data"
        write_image_folder(options.data)
        options.teacher = f"local-dir:{options.data / 'teacher'}"
    print(
        f"{now()[:10]}, {cpu_model()}; {options.student} at {options.image_size} px, {options.shots} labels per class"
    )
    data = read_dataset(options.data)
    folds = [measure(number, data, options) for number in range(FOLDS)]
    print(f"\n| score | AUROC (%), mean of {FOLDS} folds | to top probability (95 %) |\n| --- | --- | --- |")
    for name in SCORES:
        gains = [fold[name] - fold["top probability"] for fold in folds]
        gain, interval = mean_interval(gains)
        assert interval is not None
        mean, _ = mean_interval([fold[name] for fold in folds])
        print(f"| {name} | {mean:.1f} | {gain:+.1f} ({interval[0]:+.1f} to {interval[1]:+.1f}) |")


if __name__ == "__main__":
    main()
