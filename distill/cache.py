"""The teacher cache: float16 embeddings of images, computed once, kept in shard directories."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dhox.console import progress_bar
from dhox.dataset import Item, read_image
from dhox.distill import views as view_module
from dhox.distill.pixels import WholeImages, to_model
from dhox.distill.shards import Rows, missing_share, prepare, read_shards, rows_per_file, write_rows
from dhox.distill.teacher import Teacher
from dhox.distill.views import render, view_boxes, view_keys
from dhox.errors import DhoxError
from dhox.files import free_bytes

WHOLE = "whole"  # as number of views: one embedding of the whole image, as the teacher's own transform shows it
FORWARD_BATCH = 256


class TeacherViews(Dataset[torch.Tensor]):
    """Per image its first `views` views, uint8 [views, size, size, 3]."""

    def __init__(
        self, items: list[Item], sizes: np.ndarray, views: int, seed: int, size: int, interpolation: str
    ) -> None:
        self.items, self.sizes, self.views, self.seed = items, sizes, views, seed
        self.size, self.interpolation = size, interpolation

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        """The views of a batch of images, its boxes drawn together."""
        keys = np.repeat(view_keys([self.items[i].name for i in indices], self.seed), self.views)
        numbers = np.tile(np.arange(self.views), len(indices))
        boxes = view_boxes(keys, numbers, np.repeat(self.sizes[indices], self.views, axis=0))
        found = []
        for index, of_image in zip(indices, boxes.reshape(len(indices), self.views, 5), strict=True):
            image = read_image(self.items[index])
            crops = [render(image, box, self.size, self.interpolation) for box in of_image]
            found.append(torch.from_numpy(np.stack(crops)))
        return found

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.__getitems__([index])[0]


def weights_hash(teacher: Teacher) -> str:
    """A hash of the weights that image embeddings depend on: the image tower's."""
    digest = hashlib.sha256()
    for name, tensor in sorted(teacher.model.visual.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_recipe(teacher: Teacher, weights: str, views: int | str, view_seed: int) -> dict[str, Any]:
    """What the embeddings of an image depend on besides the image. `weights`: see weights_hash."""
    recipe = {
        "rows": "teacher embeddings",
        "teacher_weights": weights,
        "pixels": [teacher.size, teacher.interpolation, list(teacher.mean), list(teacher.std)],
        "views": views,
    }
    return recipe if views == WHOLE else recipe | {"view_seed": view_seed} | view_module.RECIPE


def cache_folder(root: Path, recipe: dict[str, Any]) -> Path:
    """The directory of a recipe below the root of all caches: other teachers and view recipes have others."""
    name = hashlib.blake2b(repr(sorted(recipe.items())).encode(), digest_size=5).hexdigest()
    views = recipe["views"]
    return root / f"teacher-{name}-{views}{'' if views == WHOLE else 'views'}"


def prepare_cache(folder: Path, recipe: dict[str, Any], teacher: Teacher) -> None:
    """Create the cache directory, or check that it is of this recipe."""
    prepare(folder, recipe, row_shape(recipe, teacher.width), "float16", {"teacher": teacher.name})


def row_shape(recipe: dict[str, Any], width: int) -> tuple[int, int]:
    """[views, D]."""
    return (1 if recipe["views"] == WHOLE else recipe["views"], width)


def fill_cache(
    folder: Path,
    teacher: Teacher,
    items: list[Item],
    keys: list[bytes],
    sizes: np.ndarray,
    recipe: dict[str, Any],
    workers: int,
    rank: int = 0,
    world: int = 1,
) -> int:
    """Embed this process's share of the images that the cache lacks; returns how many images that were.

    `sizes`: int [N, 2], width and height of each image. Raises DhoxError where the disk is too small.
    """
    shape = row_shape(recipe, teacher.width)
    per_file = rows_per_file(shape, "float16")
    share = missing_share(keys, read_shards(folder, checksums=False), per_file, rank, world)
    need, free = 2 * len(share) * shape[0] * shape[1], free_bytes(folder)
    if need > 0.98 * free:
        raise DhoxError(
            f"The embeddings of {len(share)} images need {need / 1e9:.1f} GB, and {folder} has "
            f"{free / 1e9:.1f} GB free. Lower --views, or choose another --cache."
        )
    if share:
        chosen = [items[i] for i in share]
        dataset: Dataset[torch.Tensor] = WholeImages(chosen, teacher.transform)
        if recipe["views"] != WHOLE:
            seed = recipe["view_seed"]
            dataset = TeacherViews(chosen, sizes[share], shape[0], seed, teacher.size, teacher.interpolation)
        with progress_bar(f"Teacher, {shape[0]} view{'s' * (shape[0] > 1)}", len(share)) as advance:
            batches = embedding_batches(teacher, dataset, shape[0], workers)
            write_rows(folder, [keys[i] for i in share], batches, per_file, advance)
    return len(share)


def embedding_batches(
    teacher: Teacher, dataset: Dataset[torch.Tensor], views: int, workers: int
) -> Iterator[np.ndarray]:
    """The teacher's embeddings of the images in order, float16 [b, views, D] at a time.

    `dataset` gives views, uint8 [views, size, size, 3], or a whole image for the teacher, float [3, size, size].
    """
    pin = teacher.device.type == "cuda"
    loader = DataLoader(dataset, batch_size=max(1, FORWARD_BATCH // views), num_workers=workers, pin_memory=pin)
    waiting: torch.Tensor | None = None  # one batch stays on the device, so that copying back never stalls it
    for pixels in loader:
        if pixels.dtype == torch.uint8:
            pixels = to_model(pixels.flatten(0, 1).to(teacher.device, non_blocking=True), teacher.mean, teacher.std)
        z = teacher.encode_images(pixels).half().unflatten(0, (-1, views))
        if waiting is not None:
            yield waiting.cpu().numpy()
        waiting = z
    if waiting is not None:
        yield waiting.cpu().numpy()


def whole_embeddings(rows: Rows) -> torch.Tensor:
    """Every row of a cache of whole images, float32 [N, D], normalised."""
    out = rows.take(np.arange(len(rows)), np.empty((len(rows), *rows.row_shape), np.float16))
    return torch.nn.functional.normalize(torch.from_numpy(out[:, 0]).float(), dim=-1)
