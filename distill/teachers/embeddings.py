"""A teacher's embeddings of images: from the cache where it has them, else computed by all processes together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric

from dhox.data.dataset import Item
from dhox.distill.images.listing import Images
from dhox.distill.images.shards import Rows, filled_rows
from dhox.distill.processes import first_then_all
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


@dataclass(frozen=True)
class CachedTeacher:
    """A teacher with its cache below `root`, the root of all caches. `weights`: see weights_hash."""

    teacher: Teacher
    weights: str
    root: Path
    images: Images
    view_seed: int
    workers: int
    fabric: Fabric

    @classmethod
    def of(
        cls, teacher: Teacher, root: Path, images: Images, view_seed: int, workers: int, fabric: Fabric
    ) -> CachedTeacher:
        """A teacher, whose weights are hashed here."""
        return cls(teacher, weights_hash(teacher), root, images, view_seed, workers, fabric)

    def views(self, items: list[Item], views: int | str) -> Rows:
        """Embeddings of the first `views` views of each image, or of WHOLE images: rows float16 [views, D]."""
        recipe = cache_recipe(self.teacher, self.weights, views, self.view_seed)
        (folder, recipe), keys = cache_folder(self.root, recipe), self.images.keys(items)
        with first_then_all(self.fabric):
            prepare_cache(folder, recipe, self.teacher)
        sizes = self.images.sizes(items)
        fill_cache(folder, self.teacher, items, keys, sizes, recipe, self.workers, self.fabric)
        return filled_rows(self.fabric, folder, keys)

    def whole(self, items: list[Item]) -> torch.Tensor:
        """Embeddings of whole images, float32 [N, D], normalised."""
        if not items:
            return torch.zeros(0, self.teacher.width)
        return whole_embeddings(self.views(items, WHOLE))
