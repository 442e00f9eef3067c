"""Students that nobody trained yet, as whole exports: what `dhox sweep` measures to choose one by its latency.

They also show before a training whether a student can be exported (`dhox.export.trial`). The time of a network does not
depend on its weights, so that they may be random; the graph, its precision and its files come from the same path as
those of a trained student.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import torch
from torch import nn

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.common import Preprocessing, StudentEntry, class_entries
from dhox.artefacts.images import IMAGES_FILE, ImageHashes
from dhox.artefacts.logits import VAL_FILE, Logits
from dhox.artefacts.manifest import Manifest
from dhox.artefacts.record import write_record
from dhox.artefacts.run import Run, SetsSummary
from dhox.artefacts.run_directory import write_run_file
from dhox.artefacts.selection import SELECTION_FILE, Selection
from dhox.data.images import decode, model_input, normalise
from dhox.distill.options import Student as StudentOptions
from dhox.distill.students.create import CreatedStudent, create_student
from dhox.distill.students.student import Student, save_student
from dhox.distill.students.synthetic import COUNT, write_synthetic_images
from dhox.export.options import ExportOptions
from dhox.export.run import export
from dhox.options.declare import build
from dhox.progress import quietly
from dhox.system.environment import now, versions

CALIBRATION_IMAGES = 16
LOGIT_SPREAD = 0.5  # standard deviation of the logits: probabilities as unsure as an early student's


def export_candidate(name: str, image_size: int | None, classes: int, fp16: bool, out: Path) -> Manifest:
    """Export the untrained student `name` with `classes` classes to the export directory `out`; its manifest.

    `image_size` in pixels, the student's own by default. BatchNorm takes its statistics from synthetic images, so that
    every value in the graph is finite. Raises DhoxError for a student that is unknown or cannot be exported,
    GateFailedError where its graph does not answer as torch.
    """
    options = StudentOptions(student=name, student_weights="none", image_size=image_size)
    with TemporaryDirectory() as folder, quietly():
        student = untrained_student(options, classes, two_heads=False)
        run = write_untrained_run(student, Path(folder, "untrained"))
        return export(run, out, build(ExportOptions, fp16=fp16, overwrite=True)).manifest


def untrained_student(options: StudentOptions, classes: int, *, two_heads: bool) -> CreatedStudent:
    """The student of the options, whose weights are to be "none", with heads for classes named class_0, class_1 ...

    Always the same one, and the caller's random numbers stay as they were. Raises as `create_student`.
    """
    labels = _labels(classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_student(
            options, labels, two_heads=two_heads, prompts=labels, templates=["{}"], device=torch.device("cpu")
        )


def write_untrained_run(created: CreatedStudent, run: Path, n_images: int = COUNT) -> Path:
    """Write a run directory of an untrained student (see export_candidate), with so many synthetic images."""
    student, spec, preprocessing = created
    labels, classes = _labels(spec.classes), spec.classes
    images = run / "images/unlabelled"
    write_synthetic_images(images, n_images)
    pixels = [model_input(decode(path), preprocessing) for path in sorted(images.iterdir())[:CALIBRATION_IMAGES]]
    calibrate(student, np.stack(pixels), preprocessing)
    save_student(student, run)
    alpha = 0.5 if spec.two_heads else 1.0  # so that both heads count
    nothing = np.zeros((0, classes), np.float32)
    logits = Logits(ce_logits=nothing, kd_logits=nothing, labels=np.zeros(0, np.int64), names=np.zeros(0, np.str_))
    selection = Selection(
        alpha=alpha, beta=1.0, searched=False, metric="accuracy", source="untrained", n_validation=0,
        n_selection_labels=0, fewest_images=0, grid=None,
    )  # fmt: skip
    sets = SetsSummary(
        n_labelled=0, n_unlabelled=0, n_validation=0, n_test=0, selection="untrained", labelled=[], validation=[]
    )
    summary = Run(
        finished_at=now(), method="untrained", data=str(run / "images"),
        classes=class_entries([(label, label) for label in labels]), sets=sets, teacher=None,
        student=StudentEntry(**msgspec.structs.asdict(spec), weights="none"), preprocessing=preprocessing,
        training=None, test=None, skipped=[], notes=[], environment=versions(),
    )  # fmt: skip
    write_arrays(run / VAL_FILE, logits)
    write_arrays(run / IMAGES_FILE, ImageHashes())
    write_record(run / SELECTION_FILE, selection)
    write_run_file(run, summary)
    return run


def _labels(classes: int) -> list[str]:
    return [f"class_{number}" for number in range(classes)]


def calibrate(student: Student, pixels: np.ndarray, preprocessing: Preprocessing) -> None:
    """BatchNorm statistics of uint8 pixels [N, H, W, 3], and heads whose logits spread by LOGIT_SPREAD."""
    for module in student.eval().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
            module.train()
    images = torch.from_numpy(normalise(pixels, preprocessing))
    with torch.no_grad():
        student(images)
        for head, logits in zip((student.ce_head, student.kd_head), student.eval()(images), strict=True):
            if head is not None:
                head.weight.mul_(LOGIT_SPREAD / logits.std().clamp(min=1e-6))  # type: ignore[operator]
