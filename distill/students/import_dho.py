"""`dhox import-dho`: a checkpoint of the DHO authors' code (github.com/erjui/DHO) to a run directory."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from lightning_fabric import Fabric
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from timm.data import ImageNetInfo

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.common import Accuracy, Preprocessing, StudentEntry, class_entries
from dhox.artefacts.files import RUN_FILE, RUN_SCHEMA, check_output, output_directory, sha256
from dhox.artefacts.images import IMAGES_FILE, ImageHashes
from dhox.artefacts.logits import VAL_FILE, HeadLogits, Logits
from dhox.artefacts.record import write_record
from dhox.artefacts.run import Imported, Run, SetsSummary
from dhox.artefacts.run_directory import write_run_file
from dhox.artefacts.selection import SELECTION_FILE, Selection
from dhox.data.dataset import Item, data_address, read_class_file, read_dataset, shorten
from dhox.data.items import content_hash
from dhox.distill.options import worker_count
from dhox.distill.results.evaluate import pixel_loader, predict_logits, with_labels
from dhox.distill.results.outcome import RunResult
from dhox.distill.results.selection import FEWEST_IMAGES
from dhox.distill.small_options import ImportOptions, Inference
from dhox.distill.students.dho_checkpoint import read_checkpoint, rebuild
from dhox.distill.students.student import Student, save_student
from dhox.distill.students.synthetic import write_synthetic_images
from dhox.errors import DhoxError
from dhox.evidence.dho_inference import FIXED_ALPHA, FIXED_BETA, dho_probs
from dhox.system.environment import now, versions

CLIP_ALPHA_BETA = (0.5, 0.5)  # hard-coded in train_imgnet_semi.py
SYNTHETIC = "synthetic"
FAR = 5.0  # points beyond the interval


def import_dho(file: Path, out: Path, options: ImportOptions) -> RunResult:
    """Write the run directory `out` from a checkpoint `file`.

    The image size is that of the position embeddings. Raises DhoxError for a file that is no such checkpoint or does
    not fit.
    """
    given, arch = options.inference, options.checkpoint.arch
    check_output(out, RUN_FILE, RUN_SCHEMA, given.overwrite)
    classes = known_classes(options.checkpoint.classes)
    labels = [label for label, _ in classes]
    validation = [] if given.data is None else _validation_items(given.data, labels)
    state, stored = read_checkpoint(file)
    student, spec, preprocessing = rebuild(state, arch, len(classes), file)
    selection = _selection(given, CLIP_ALPHA_BETA if spec.tower else (FIXED_ALPHA, FIXED_BETA), len(validation))
    sets = SetsSummary(
        n_labelled=0, n_unlabelled=0, n_validation=len(validation), n_test=0, selection="imported", labelled=[],
        validation=[item.name for item in validation],
    )  # fmt: skip
    with output_directory(out, RUN_FILE, RUN_SCHEMA, given.overwrite) as run:
        save_student(student, run)
        logits = _answers(student, validation, preprocessing, worker_count(given.workers))
        answers = with_labels(logits, validation, labels)
        write_arrays(run / VAL_FILE, answers)
        write_arrays(run / IMAGES_FILE, ImageHashes.of({item.name: content_hash(item) for item in validation}, {}))
        if given.data is None:
            write_synthetic_images(run / SYNTHETIC / "unlabelled")
        write_record(run / SELECTION_FILE, selection)
        summary = Run(
            finished_at=now(), method="dho", data=data_address(given.data or out / SYNTHETIC),
            classes=class_entries(classes), sets=sets, teacher=None,
            student=StudentEntry(**msgspec.structs.asdict(spec), weights=file.name), preprocessing=preprocessing,
            training=None, test=None, skipped=[], notes=_notes(stored, selection, answers, clip=spec.tower is not None),
            environment=versions(),
            imported=Imported(str(file.absolute()), sha256(file), stored),
        )  # fmt: skip
        summary = write_run_file(run, summary)
    return RunResult(out, summary, selection)


def _selection(given: Inference, default: tuple[float, float], n_validation: int) -> Selection:
    """alpha and beta of the user, else the default ones; nothing is searched."""
    alpha, beta = (usual if own is None else own for own, usual in zip((given.alpha, given.beta), default, strict=True))
    return Selection(
        alpha=alpha, beta=beta, searched=False, metric="accuracy", source="imported", n_validation=n_validation,
        n_selection_labels=0, fewest_images=FEWEST_IMAGES, grid=None,
    )  # fmt: skip


def _answers(student: Student, items: list[Item], preprocessing: Preprocessing, workers: int) -> HeadLogits:
    fabric = Fabric(accelerator="cuda" if torch.cuda.is_available() else "cpu", devices=1, precision="32-true")
    pixels = pixel_loader(items, preprocessing, workers, fabric)
    return predict_logits(fabric, fabric.to_device(student), pixels, len(items), preprocessing)


def _validation_items(data: Path, labels: list[str]) -> list[Item]:
    """The val split of DATA. Raises DhoxError where there is none, or where it has labels outside `labels`."""
    items = read_dataset(data, labels=labels)["val"]
    if not items:
        raise DhoxError(
            f"{data} has no val split.", "Add val/CLASS/*, or leave --data out here and give it to dhox export."
        )
    outside = sorted({str(item.label) for item in items} - set(labels))
    if outside:
        raise DhoxError(
            f"val has labels outside the class list: {shorten(outside)}.",
            "Rename the folders, or name the classes as "
            "they are called (--classes imagenet-wnid for ImageNet's own folders).",
        )
    return items


def known_classes(classes: str) -> list[tuple[str, str]]:
    """(label, prompt name) in index order. English names that ImageNet has twice get their synset behind them."""
    if not classes.startswith("imagenet"):
        return read_class_file(Path(classes))
    if classes not in {"imagenet", "imagenet-wnid"}:
        raise DhoxError(f"--classes {classes} is unknown.", "Use imagenet, imagenet-wnid or a class file.")
    info = ImageNetInfo()
    synsets = [info.index_to_label_name(i) for i in range(len(IMAGENET_CLASSNAMES))]
    if classes == "imagenet-wnid":
        return list(zip(synsets, IMAGENET_CLASSNAMES, strict=True))
    return [
        (name if IMAGENET_CLASSNAMES.count(name) == 1 else f"{name} ({synset})", name)
        for name, synset in zip(IMAGENET_CLASSNAMES, synsets, strict=True)
    ]


def _notes(stored: dict[str, float], used: Selection, val: Logits, *, clip: bool) -> list[str]:
    """What the file says of alpha, beta and accuracy, what is used and measured, and what is missing without DATA."""
    said = ", ".join(f"{key} {stored[key]:g}" for key in ("alpha", "beta") if key in stored) or "no alpha and no beta"
    of_weights = (
        f"the file stores {said}; used are alpha {used.alpha:g} (weight of the CE head) and beta {used.beta:g}. The "
        "authors' code gave alpha to the KD head until 21 May 2025, so a stored alpha is not taken over: set --alpha "
        "and --beta"
    )
    of_images = (
        "no --data: graphs will be checked on synthetic images, and alpha, beta and the fold cannot be judged. "
        "Give dhox export --data DATA, or import again with --data DATA"
    )
    images = "randomly cropped images" if clip else "images"
    return [of_weights, _accuracy_note(stored.get("acc"), images, used, val) if len(val) else of_images]


def _accuracy_note(stated: float | None, images: str, used: Selection, val: Logits) -> str:
    """The accuracy on validation beside the one that the file states, in percent or as a share of some test set.

    `images`: of the file's accuracy; train_imgnet_semi.py measures on random crops.
    """
    probs = dho_probs(val.ce_logits, val.kd_logits, used.alpha, used.beta)
    found = Accuracy.of(probs.argmax(-1) == val.labels)
    low, high = (100 * bound for bound in found.interval)
    note = f"{100 * found.accuracy:.1f} % ({low:.1f}-{high:.1f}) of {found.n} validation images are answered right"
    if stated is None:
        return note
    points = stated if stated > 1 else 100 * stated
    note += f"; the file states {points:.1f} % on its authors' {images}"
    if low - points > FAR or points - high > FAR:
        note += ": far from it, so check --arch, --data and the order of --classes"
    return note
