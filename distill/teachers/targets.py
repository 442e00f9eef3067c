"""The teacher's part of a training: its targets for every view, and its own answers on validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import normalize

from dhox.artefacts.common import TeacherEntry
from dhox.data.dataset import Item, spread
from dhox.data.label_studio import is_label_studio
from dhox.data.leftovers import counted
from dhox.data.manifest import MANIFESTS
from dhox.distill.images.listing import Listing
from dhox.distill.images.sets import Sets
from dhox.distill.images.shards import Rows
from dhox.distill.images.student_inputs import TrainingImages
from dhox.distill.options import Adapter
from dhox.distill.options import Teacher as TeacherOptions
from dhox.distill.results.selection import FEWEST_IMAGES
from dhox.distill.teachers.adapter import TipAdapter, fit_tip_adapter
from dhox.distill.teachers.embeddings import CachedTeacher
from dhox.distill.teachers.model_config import license_of
from dhox.distill.teachers.text_probe import TextProbe, fit_text_probe
from dhox.distill.teachers.view_targets import (
    Logits,
    ViewTargets,
    cached_targets,
    cosine_logits,
    online_targets,
    read_rows,
    rows_of_items,
)
from dhox.errors import DhoxError
from dhox.evidence.calibration import calibration

MATCHING_IMAGES = 2000  # unlabelled images that are answered whole where no label chooses alpha and beta
ROWS = 4096  # images whose logits are in memory together where their answers alone are wanted


@dataclass(frozen=True)
class WholeSets:
    """The images that teacher and student answer whole; `unlabelled`: a sample, where no label chooses."""

    validation: list[Item]
    test: list[Item]
    unlabelled: list[Item]

    @classmethod
    def of(cls, sets: Sets, *, two_heads: bool, given: bool) -> WholeSets:
        """Of a run's sets. `given`: whether the user set alpha and beta."""
        unsearched = two_heads and (given or len(sets.validation) < FEWEST_IMAGES)
        return cls(sets.validation, sets.test, spread(sets.unlabelled, MATCHING_IMAGES) if unsearched else [])


@dataclass(frozen=True)
class WholeAnswers:
    """What a teacher answers to the whole images of WholeSets: logits of validation float32 [N, C], which judge it, and
    class numbers of the others int64 [N]."""

    validation: np.ndarray
    test: np.ndarray
    unlabelled: np.ndarray


FewShotTeacher = TipAdapter | TextProbe


@dataclass(frozen=True)
class FewShots:
    """What a few-shot teacher learns from: the training images, of which the first have labels, and validation
    embeddings [M, D] with their class numbers [M]."""

    images: TrainingImages
    validation: tuple[torch.Tensor, torch.Tensor]
    seed: int


@dataclass(frozen=True)
class TeacherTargets:
    """What training needs of a teacher; `entry`: what run.json says of it."""

    views: ViewTargets
    whole: WholeAnswers
    entry: TeacherEntry
    adapter: FewShotTeacher | None = None


def targets_of_model(
    cached: CachedTeacher, images: TrainingImages, whole: WholeSets, validation_labels: np.ndarray,
    prompts: list[str], templates: list[str], views: int, options: TeacherOptions, adapter_kind: Adapter, seed: int,
) -> TeacherTargets:  # fmt: skip
    """A CLIP teacher: embeddings of `views` views of the training images from its cache, or a forward at every step.

    `validation_labels`: int [N]; with the labels of L they choose an adapter. `prompts`: the classes' prompt names.
    """
    teacher, online, device = cached.teacher, options.online_teacher, cached.fabric.device
    text = teacher.encode_classes(prompts, templates)
    z = {name: cached.whole(items) for name, items in vars(whole).items()}
    adapter: FewShotTeacher | None = None
    rows: Rows | None = None
    if adapter_kind != "none" or not online:  # online, an adapter alone needs embeddings of views
        rows = cached.views(images.items[: len(images.labels)] if online else images.items, views)
    logits, host_logits = cosine_logits(text.to(device), teacher.scale), cosine_logits(text, teacher.scale)
    if adapter_kind != "none":
        assert rows is not None
        known = FewShots(images, (z["validation"], torch.from_numpy(validation_labels)), seed)
        adapter = fit_adapter(adapter_kind, rows, text, teacher.scale, known)
        logits, host_logits = adapter.to(device).logits, adapter.logits
    if online:
        of_views = online_targets(teacher, images.items, images.boxes, logits)
    else:
        assert rows is not None
        of_views = cached_targets(rows, logits)
    of_whole = answers(z, host_logits)
    found = calibration(of_whole.validation, validation_labels, "validation")
    if found is None and rows is not None and adapter is None:
        labelled = rows.take_part(np.arange(len(images.labels)), np.zeros(len(images.labels), int))
        shown = host_logits(normalize(torch.from_numpy(labelled).float(), dim=-1)).numpy()
        found = calibration(shown, images.labels, "labelled")
    entry = TeacherEntry(
        name=teacher.name, weights_hash=cached.weights, scale=teacher.scale, logit_bias=teacher.logit_bias,
        templates=templates, views=views, online=online, adapter=adapter_kind, calibration=found,
        license=license_of(teacher.name),
    )  # fmt: skip
    return TeacherTargets(of_views, of_whole, entry, adapter)


def fit_adapter(
    kind: Literal["tip", "tip-f", "probe"], rows: Rows, text: torch.Tensor, scale: float, known: FewShots
) -> FewShotTeacher:
    """A few-shot teacher of the labelled images, whose embeddings are the first of `rows`, [views, D] each."""
    labels = torch.from_numpy(known.images.labels)
    taken = rows.take(np.arange(len(labels)), np.empty((len(labels), *rows.row_shape), rows.dtype))
    labelled = normalize(torch.from_numpy(taken).float(), dim=-1)
    if kind == "probe":
        units = [item.group or item.name for item in known.images.items[: len(labels)]]
        return fit_text_probe(labelled, labels, text, scale, known.validation, units)
    return fit_tip_adapter(labelled, labels, text, scale, known.validation, train_keys=kind == "tip-f", seed=known.seed)


def answers(z: dict[str, torch.Tensor], logits: Logits) -> WholeAnswers:
    """A teacher's answers to whole images from what it knows of them."""

    def numbers(part: torch.Tensor) -> np.ndarray:
        found = [logits(some).argmax(-1).numpy() for some in part.split(ROWS)]
        return np.concatenate([np.empty(0, np.int64), *found])

    return WholeAnswers(logits(z["validation"]).numpy(), numbers(z["test"]), numbers(z["unlabelled"]))


def targets_of_files(
    options: TeacherOptions, adapter_kind: Adapter, listing: Listing, images: TrainingImages, whole: WholeSets,
    validation_labels: np.ndarray, device: torch.device, seed: int,
) -> TeacherTargets:  # fmt: skip
    """A teacher that was run elsewhere: arrays with one row per manifest row (see docs/distill.md).

    Raises DhoxError as `teacher_rows` does.
    """
    array = teacher_rows(options, listing)
    scale = 1.0
    logits: Logits = torch.nn.Identity()
    host_logits = logits
    if options.teacher_logits is None:
        assert options.teacher_scale is not None
        scale = options.teacher_scale
        text = class_text(options, array.shape[-1], len(listing.classes))
        logits, host_logits = normalised(cosine_logits(text.to(device), scale)), normalised(cosine_logits(text, scale))

    def first_view(items: list[Item]) -> torch.Tensor:
        rows = np.array([array[item.row, 0] for item in items], np.float32)
        return torch.from_numpy(rows.reshape(-1, array.shape[-1]))

    z = {name: first_view(items) for name, items in vars(whole).items()}
    rows, adapter = rows_of_items(array, images.items), None
    if adapter_kind != "none":
        validation = (normalize(z["validation"], dim=-1), torch.from_numpy(validation_labels))
        adapter = fit_adapter(adapter_kind, rows, text, scale, FewShots(images, validation, seed))
        logits, host_logits = normalised(adapter.to(device).logits), normalised(adapter.logits)
    of_whole = answers(z, host_logits)
    entry = TeacherEntry(
        name=str(options.teacher_logits or options.teacher_embeddings), scale=scale, views=array.shape[1], online=False,
        adapter=adapter_kind, calibration=calibration(of_whole.validation, validation_labels, "validation"),
    )  # fmt: skip
    return TeacherTargets(cached_targets(rows, logits), of_whole, entry, adapter)


def teacher_rows(options: TeacherOptions, listing: Listing) -> np.ndarray:
    """What a teacher said elsewhere, float [n, views, D or C], checked before any model is loaded.

    Embeddings [n, D] or [n, views, D] with class embeddings [C, D], or logits [n, C] or [n, views, C]. Raises DhoxError
    for arrays of another length or width, for other `--views` than they have, and where DATA is no manifest.
    """
    path = options.teacher_logits or options.teacher_embeddings
    assert path is not None
    if listing.data.suffix.lower() not in MANIFESTS or is_label_studio(listing.data):
        raise DhoxError(
            "Embeddings or logits computed elsewhere are aligned to the rows of a manifest, and DATA is none.",
            "Write a .csv, .tsv or .parquet manifest.",
        )
    array = read_rows(path, listing.n_rows, "logits" if options.teacher_logits else "embeddings")
    if array.shape[1] > 1 and options.views not in {TeacherOptions().views, array.shape[1]}:
        raise DhoxError(
            f"--views {options.views}, and {path} holds {counted(array.shape[1], 'view')} of each image.",
            "Leave --views out.",
        )
    if options.teacher_logits is None:
        class_text(options, array.shape[-1], len(listing.classes))
    elif array.shape[-1] != len(listing.classes):
        raise DhoxError(
            f"{path} has logits of {array.shape[-1]} classes, and DATA has {len(listing.classes)}.",
            "Compute them for the classes of DATA in their order (see --classes).",
        )
    return array


def class_text(options: TeacherOptions, width: int, n_classes: int) -> torch.Tensor:
    """Class embeddings [C, D] computed elsewhere, normalised. Raises DhoxError for those of another model."""
    assert options.class_embeddings is not None
    rows = read_rows(options.class_embeddings, n_classes, "class embeddings")[:, 0]
    if rows.shape[-1] != width:
        raise DhoxError(
            f"{options.class_embeddings} has embeddings of width {rows.shape[-1]}, {options.teacher_embeddings} of "
            f"width {width}.",
            "Compute both with one model.",
        )
    return normalize(torch.from_numpy(np.array(rows)).float(), dim=-1)


def normalised(logits: Logits) -> Logits:
    """The same logits of embeddings [B, D] that may not be normalised."""
    return lambda z: logits(normalize(z, dim=-1))
