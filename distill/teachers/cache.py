"""The teacher cache: float16 embeddings of images, computed once, kept in shard directories."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Dataset

from dhox.artefacts.files import free_bytes
from dhox.artefacts.shards import Recipe
from dhox.data.dataset import Item, read_image
from dhox.distill.images import views as view_module
from dhox.distill.images.pixels import WholeImages, to_model
from dhox.distill.images.shards import Rows, missing_rows, prepare, read_shards, rows_per_file, share_of, write_rows
from dhox.distill.images.views import render, view_boxes, view_keys
from dhox.distill.teachers.teacher import Teacher
from dhox.errors import DhoxError
from dhox.progress import progress_bar

WHOLE = "whole"  # as number of views: one embedding of the whole image, as the teacher's own transform shows it
FORWARD_BATCH = 256
NO_MATTER = {"training", "fused_attn", "grad_checkpointing", "dump_patches", "call_super_init"}  # to what comes out


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
    """A hash of all that image embeddings depend on: the image tower's weights and its architecture."""
    digest = hashlib.sha256()
    for name, module in teacher.model.visual.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | tuple)}
        public = sorted((k, v) for k, v in plain.items() if k not in NO_MATTER and not k.startswith("_"))
        digest.update(f"{name} {type(module).__qualname__} {public}".encode())
    for name, tensor in sorted(teacher.model.visual.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_recipe(teacher: Teacher, weights: str, views: int | str, view_seed: int) -> Recipe:
    """What the embeddings of an image depend on besides the image. `weights`: see weights_hash."""
    recipe: Recipe = {
        "rows": "teacher embeddings",
        "teacher_weights": weights,
        "pixels": [teacher.size, teacher.interpolation, list(teacher.mean), list(teacher.std)],
        "views": views,
    }
    return recipe if views == WHOLE else recipe | {"view_seed": view_seed} | view_module.RECIPE


def cache_folder(root: Path, recipe: Recipe) -> tuple[Path, Recipe]:
    """The directory of a recipe below the root of all caches, and the recipe of that directory.

    Other teachers and view recipes have other directories. One with more views than asked for serves as well: its first
    views are the same.
    """
    views = _views_of(recipe)
    others = sorted((key, value) for key, value in recipe.items() if key != "views")
    name = f"teacher-{hashlib.blake2b(repr(others).encode(), digest_size=5).hexdigest()}"
    if views is None:
        return root / f"{name}-{WHOLE}", recipe
    counts = [path.name.removeprefix(f"{name}-").removesuffix("views") for path in root.glob(f"{name}-*views")]
    views = min((int(count) for count in counts if count.isdecimal() and int(count) >= views), default=views)
    return root / f"{name}-{views}views", recipe | {"views": views}


def prepare_cache(folder: Path, recipe: Recipe, teacher: Teacher) -> None:
    """Create the cache directory, or check that it is of this recipe."""
    prepare(folder, recipe, row_shape(recipe, teacher.width), "float16", {"teacher": teacher.name})


def _views_of(recipe: Recipe) -> int | None:
    """Views per image; None for one embedding of the whole image."""
    views = recipe["views"]
    return views if isinstance(views, int) else None


def row_shape(recipe: Recipe, width: int) -> tuple[int, int]:
    """[views, D]."""
    return (_views_of(recipe) or 1, width)


def fill_cache(
    folder: Path,
    teacher: Teacher,
    items: list[Item],
    keys: np.ndarray,
    sizes: np.ndarray,
    recipe: Recipe,
    workers: int,
    fabric: Fabric,
) -> None:
    """Embed this process's share of the images that the cache lacks.

    `sizes`: int [N, 2], width and height of each image. Raises DhoxError where the disk is too small.
    """
    shape = row_shape(recipe, teacher.width)
    per_file = rows_per_file(shape, "float16")
    shards, free = read_shards(folder, checksums=False), free_bytes(folder)
    fabric.barrier()  # every process has seen the same files before the first one writes
    missing = missing_rows(keys, shards)
    share = share_of(missing, per_file, fabric.global_rank, fabric.world_size)
    need = 2 * len(missing) * shape[0] * shape[1]
    if need > 0.98 * free:
        raise DhoxError(
            f"The embeddings of {len(missing)} images need {need / 1e9:.1f} GB, and {folder} has "
            f"{free / 1e9:.1f} GB free.",
            "Lower --views, or choose another --cache.",
        )
    if len(share):
        chosen = [items[i] for i in share]
        dataset: Dataset[torch.Tensor] = WholeImages(chosen, teacher.transform)
        seed = recipe.get("view_seed")
        if isinstance(seed, int):
            dataset = TeacherViews(chosen, sizes[share], shape[0], seed, teacher.size, teacher.interpolation)
        with progress_bar(f"Teacher, {shape[0]} view{'s' * (shape[0] > 1)}", len(share)) as advance:
            batches = embedding_batches(teacher, dataset, shape[0], workers)
            write_rows(folder, keys[share], batches, per_file, advance)


def embedding_batches(
    teacher: Teacher, dataset: Dataset[torch.Tensor], views: int, workers: int
) -> Iterator[np.ndarray]:
    """The teacher's embeddings of the images in order, float16 [b, views, D] at a time.

    `dataset` gives views, uint8 [views, size, size, 3], or a whole image for the teacher, float [3, size, size].
    """
    cuda = teacher.device.type == "cuda"
    loader = DataLoader(dataset, batch_size=max(1, FORWARD_BATCH // views), num_workers=workers, pin_memory=cuda)
    waiting: tuple[torch.Tensor, Any] | None = None  # the batch before: its copy back runs beside the next forward
    for pixels in loader:
        if pixels.dtype == torch.uint8:
            pixels = to_model(pixels.flatten(0, 1).to(teacher.device, non_blocking=True), teacher.mean, teacher.std)
        z = _encode_in_parts(teacher, pixels).half().unflatten(0, (-1, views))
        copied = None
        if cuda:
            host = torch.empty(z.shape, dtype=z.dtype, pin_memory=True)
            z, copied = host.copy_(z, non_blocking=True), torch.cuda.Event()
            copied.record()
        if waiting is not None:
            yield on_host(*waiting)
        waiting = z, copied
    if waiting is not None:
        yield on_host(*waiting)


def on_host(z: torch.Tensor, copied: Any) -> np.ndarray:
    """Embeddings whose copy to the host may still be under way (`copied`: a CUDA event, or None)."""
    if copied is not None:
        copied.synchronize()
    return z.numpy()


def _encode_in_parts(teacher: Teacher, pixels: torch.Tensor) -> torch.Tensor:
    """The teacher's embeddings of a batch, in halves of halves where the device has too little memory for all of it."""
    try:
        return teacher.encode_images(pixels)
    except torch.OutOfMemoryError as err:
        if len(pixels) == 1:
            raise DhoxError(
                "The teacher does not fit into this device's memory.", "Choose a smaller --teacher."
            ) from err
    return torch.cat([_encode_in_parts(teacher, part) for part in pixels.chunk(2)])


def whole_embeddings(rows: Rows) -> torch.Tensor:
    """Every row of a cache of whole images, float32 [N, D], normalised."""
    out = rows.take(np.arange(len(rows)), np.empty((len(rows), *rows.row_shape), np.float16))
    return torch.nn.functional.normalize(torch.from_numpy(out[:, 0]).float(), dim=-1)
