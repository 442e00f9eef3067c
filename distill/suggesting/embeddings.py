"""What a teacher sees in whole images: from the caches of earlier commands, from files, or computed now and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from dhox.data.dataset import Item
from dhox.distill.images.listing import Images, Listing
from dhox.distill.images.shards import Rows, missing_rows, open_rows, read_shards
from dhox.distill.options import Teacher as TeacherOptions
from dhox.distill.options import worker_count
from dhox.distill.processes import create_fabric
from dhox.distill.small_options import SuggestMachine
from dhox.distill.suggesting.space import chunks
from dhox.distill.teachers.cache import WHOLE, cache_folder, cache_recipe
from dhox.distill.teachers.embeddings import CachedTeacher
from dhox.distill.teachers.targets import class_text, teacher_rows
from dhox.distill.teachers.teacher import Teacher, load_teacher
from dhox.distill.teachers.templates import template_list
from dhox.progress import working


@dataclass(frozen=True, eq=False)
class Eyes:
    """A teacher of DATA: class text embeddings `text` [C, D], the factor of its cosines, and how images are embedded.

    `given`: embeddings that were computed elsewhere, [rows of the manifest, views, D].
    """

    text: torch.Tensor
    scale: float
    given: np.ndarray | None = None
    cached: CachedTeacher | None = None

    def embeddings(self, items: list[Item]) -> torch.Tensor:
        """Embeddings of images, float16 [N, D], normalised."""
        if not items:
            return torch.zeros(0, self.text.shape[1], dtype=torch.float16)
        if self.cached is not None:
            return mean_of_views(rows_of(self.cached, items))
        assert self.given is not None
        rows = np.stack([self.given[item.row].astype(np.float32).mean(0) for item in items])
        return normalize(torch.from_numpy(rows), dim=-1).half()


def load_embedding_files(options: TeacherOptions, listing: Listing) -> Eyes | None:
    """The teacher that was run elsewhere, if that is asked for. Raises DhoxError as `teacher_rows` does."""
    if not options.from_files:
        return None
    given = teacher_rows(options, listing)
    assert options.teacher_scale is not None
    return Eyes(class_text(options, given.shape[-1], len(listing.classes)), options.teacher_scale, given=given)


def load_eyes(options: TeacherOptions, machine: SuggestMachine, listing: Listing, images: Images) -> Eyes:
    """A CLIP teacher with its cache below `machine.cache`. Raises DhoxError for a model that cannot be loaded."""
    fabric, _ = create_fabric(machine.device, None)
    with working("Loading the teacher"):
        teacher: Teacher = load_teacher(options.teacher, fabric.device, options.teacher_scale)
    templates = template_list(options.templates, list(options.template))
    text = teacher.encode_classes(listing.prompts, templates)
    root = Path(machine.cache)
    cached = CachedTeacher.of(teacher, root, images, options.view_seed, worker_count(machine.workers), fabric)
    return Eyes(text, teacher.scale, cached=cached)


def rows_of(cached: CachedTeacher, items: list[Item]) -> Rows:
    """The rows of images in a cache of views that holds all of them, as a training leaves it; else whole images are
    embedded, an eighth of the work, and kept."""
    recipe = cache_recipe(cached.teacher, cached.weights, 1, cached.view_seed)
    folder, _ = cache_folder(cached.root, recipe)
    keys = cached.images.keys(items)
    if folder.exists() and not len(missing_rows(keys, read_shards(folder, checksums=False))):
        return open_rows(folder, keys)
    return cached.views(items, WHOLE)


def mean_of_views(rows: Rows) -> torch.Tensor:
    """The mean embedding of each image over its cached views, float16 [N, D], normalised."""
    found = torch.empty(len(rows), rows.row_shape[-1], dtype=torch.float16)
    for place, numbers in chunks(torch.arange(len(rows))):
        part = rows.take(numbers.numpy(), np.empty((len(numbers), *rows.row_shape), rows.dtype))
        found[place] = normalize(torch.from_numpy(part).float().mean(1), dim=-1).half()
    return found
