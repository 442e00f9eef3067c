"""The teacher's part of a training: its signal for every view, and its own answers on validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from dhox.artefacts.common import TeacherEntry
from dhox.data.dataset import Item
from dhox.distill.images.packed import fill_packed, prepare_packed
from dhox.distill.images.scan import Seen, sizes_of
from dhox.distill.images.shards import Rows, list_files, open_rows, row_key
from dhox.distill.processes import first_then_all
from dhox.distill.results.selection import FEWEST_IMAGES
from dhox.distill.teachers.adapter import TipAdapter, fit_tip_adapter
from dhox.distill.teachers.cache import (
    WHOLE,
    cache_folder,
    cache_recipe,
    fill_cache,
    prepare_cache,
    weights_hash,
    whole_embeddings,
)
from dhox.distill.teachers.teacher import Teacher
from dhox.distill.teachers.view_targets import (
    Signal,
    cached_signal,
    cosine_logits,
    online_signal,
    read_rows,
    rows_of_items,
)
from dhox.distill.training.prefetch import Boxes
from dhox.errors import DhoxError


@dataclass(frozen=True)
class Guidance:
    """What training needs of a teacher.

    `answers`: split name -> its classes of the whole images, int [N]; `val_logits`: of the validation images, [N, C].
    """

    signal: Signal
    answers: dict[str, np.ndarray]
    val_logits: np.ndarray
    summary: TeacherEntry
    adapter: TipAdapter | None = None


def keys_of(items: list[Item], seen: dict[str, Seen]) -> list[bytes]:
    """The keys under which caches keep these images."""
    return [row_key(item.name, seen[item.name].content) for item in items]


def cached_rows(
    fabric: Fabric, root: Path, teacher: Teacher, weights: str, items: list[Item], seen: dict[str, Seen],
    views: int | str, view_seed: int, workers: int,
) -> Rows:  # fmt: skip
    """The teacher's embeddings of these images, computed where the cache lacks them, by all processes together."""
    recipe = cache_recipe(teacher, weights, views, view_seed)
    (folder, recipe), keys = cache_folder(root, recipe), keys_of(items, seen)
    with first_then_all(fabric):
        prepare_cache(folder, recipe, teacher)
    sizes = np.array(sizes_of(items, seen), np.int64).reshape(-1, 2)
    fill_cache(folder, teacher, items, keys, sizes, recipe, workers, fabric)
    return filled_rows(fabric, folder, keys)


def packed_rows(fabric: Fabric, root: Path, items: list[Item], keys: list[bytes], side: int) -> Rows:
    """The images packed to `side` pixels, packed where the directory lacks them, by all processes together."""
    folder = root / f"packed-{side}"
    with first_then_all(fabric):
        prepare_packed(folder, side)
    fill_packed(folder, items, keys, side, fabric)
    return filled_rows(fabric, folder, keys)


def filled_rows(fabric: Fabric, folder: Path, keys: list[bytes]) -> Rows:
    """The rows of `keys`, once every process has written its share."""
    fabric.barrier()
    with first_then_all(fabric):
        if fabric.is_global_zero:
            list_files(folder)
    return open_rows(folder, keys)


def guidance_of_model(
    fabric: Fabric,
    teacher: Teacher,
    root: Path,
    items: list[Item],
    whole: dict[str, list[Item]],
    seen: dict[str, Seen],
    boxes: Boxes,
    prompts: list[str],
    templates: list[str],
    *,
    views: int,
    view_seed: int,
    online: bool,
    workers: int,
    adapter: str,
    labels: np.ndarray,
    validation_labels: np.ndarray,
    seed: int,
) -> Guidance:
    """A CLIP teacher: embeddings of `views` views of the training images `items`, from the cache below `root`.

    `whole`: split name -> images that it answers whole. `prompts`: the classes' prompt names. `online`: no cache of
    views, a forward of the teacher at every step instead. `adapter`: none, tip or
    tip-f, fitted to the first len(labels) items; `labels` and `validation_labels` int, of L and of whole["val"].
    """
    weights = weights_hash(teacher)
    text = teacher.encode_classes(prompts, templates)
    z = {
        split: whole_embeddings(cached_rows(fabric, root, teacher, weights, part, seen, WHOLE, view_seed, workers))
        if part
        else torch.zeros(0, teacher.width)
        for split, part in whole.items()
    }
    few_shot: TipAdapter | None = None
    rows: Rows | None = None
    cached = items[: len(labels)] if online else items  # online, an adapter alone needs embeddings of views
    if adapter != "none" or not online:
        rows = cached_rows(fabric, root, teacher, weights, cached, seen, views, view_seed, workers)
    logits, host_logits = cosine_logits(text.to(fabric.device), teacher.scale), cosine_logits(text, teacher.scale)
    if adapter != "none":
        assert rows is not None
        labelled = rows.take(np.arange(len(labels)), np.empty((len(labels), *rows.row_shape), np.float16))
        few_shot = fit_tip_adapter(
            torch.nn.functional.normalize(torch.from_numpy(labelled).float(), dim=-1), torch.from_numpy(labels), text,
            teacher.scale, (z["val"], torch.from_numpy(validation_labels)), train_keys=adapter == "tip-f", seed=seed,
        )  # fmt: skip
        logits, host_logits = few_shot.to(fabric.device).logits, few_shot.logits
    if online:
        signal = online_signal(teacher, items, boxes, logits)
    else:
        assert rows is not None
        signal = cached_signal(rows, logits)
    whole_logits = {split: host_logits(z_split).numpy() for split, z_split in z.items()}
    answers = {split: split_logits.argmax(-1) for split, split_logits in whole_logits.items()}
    summary = TeacherEntry(
        name=teacher.name, weights_hash=weights, scale=teacher.scale, logit_bias=teacher.logit_bias,
        templates=templates, views=views, online=online, adapter=adapter,
    )  # fmt: skip
    return Guidance(signal, answers, whole_logits["val"], summary, few_shot)


def adapter_sentence(adapter: TipAdapter, kind: str) -> str:
    """What was fitted, and on what alpha and beta were chosen."""
    name = {"tip": "Tip-Adapter", "tip-f": "Tip-Adapter-F"}[kind]
    start = f"teacher: {name} on {len(adapter.keys)} labelled images, alpha {adapter.alpha:.3g} and beta "
    if adapter.chosen_on == "validation":
        return start + f"{adapter.beta:.3g} chosen on {adapter.n} validation images"
    return (
        start + f"{adapter.beta:.3g} fixed ({adapter.n} validation labels, {FEWEST_IMAGES} needed); it may be worse "
        "than zero-shot, compare the teacher row"
    )


def guidance_of_files(
    data: Path,
    embeddings: Path | None,
    class_embeddings: Path | None,
    logits: Path | None,
    scale: float,
    items: list[Item],
    whole: dict[str, list[Item]],
    manifest_rows: int,
    classes: int,
    device: torch.device,
) -> Guidance:
    """A teacher that was run elsewhere: arrays with one row per manifest row (see docs/distill.md).

    `embeddings` [n, D] or [n, views, D] with `class_embeddings` [C, D], or `logits` [n, C] or [n, views, C]. Raises
    DhoxError for arrays of another length or width.
    """
    path = logits or embeddings
    assert path is not None
    if data.suffix.lower() not in {".csv", ".parquet"}:
        raise DhoxError(
            "Embeddings or logits computed elsewhere are aligned to the rows of a manifest, and DATA is none.",
            "Write a .csv or .parquet manifest.",
        )
    array = read_rows(path, manifest_rows, "logits" if logits else "embeddings")
    if logits is not None:
        of_rows = torch.nn.Identity()
        host_logits: Any = of_rows
        if array.shape[-1] != classes:
            raise DhoxError(
                f"{logits} has logits of {array.shape[-1]} classes, and DATA has {classes}.",
                "Compute them for the classes of DATA in their order (see --classes).",
            )
    else:
        assert class_embeddings is not None
        text = torch.from_numpy(np.array(read_rows(class_embeddings, classes, "class embeddings")[:, 0])).float()
        if text.shape[-1] != array.shape[-1]:
            raise DhoxError(
                f"{class_embeddings} has embeddings of width {text.shape[-1]}, {embeddings} of width "
                f"{array.shape[-1]}.",
                "Compute both with one model.",
            )
        text = torch.nn.functional.normalize(text, dim=-1)
        of_rows, host_logits = normalised(text.to(device), scale), normalised(text, scale)
    whole_logits = {}
    for split, part in whole.items():
        first_view = [array[item.row, 0] for item in part]
        z = torch.from_numpy(np.array(first_view, np.float32).reshape(-1, array.shape[-1]))
        whole_logits[split] = host_logits(z).numpy()
    answers = {split: split_logits.argmax(-1) for split, split_logits in whole_logits.items()}
    scale = scale if embeddings else 1.0
    summary = TeacherEntry(name=str(path), scale=scale, views=array.shape[1], online=False)
    signal = cached_signal(rows_of_items(array, items), of_rows)
    return Guidance(signal, answers, whole_logits["val"], summary)


def normalised(text: torch.Tensor, scale: float) -> Any:
    """Teacher logits of embeddings [B, D] that may not be normalised."""
    logits = cosine_logits(text, scale)
    return lambda z: logits(torch.nn.functional.normalize(z, dim=-1))
