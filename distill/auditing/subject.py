"""What an audit looks at: the images of DATA by set, those that judge, and what a model makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from dhox.data.dataset import Item, class_numbers
from dhox.distill.images.listing import Images, Listing, look
from dhox.distill.images.pixels import WholeImages
from dhox.distill.images.sets import choose_sets, hold_out_note
from dhox.distill.options import Labels
from dhox.distill.small_options import AuditImages
from dhox.distill.teachers.teacher import Teacher
from dhox.progress import progress_bar


@dataclass(frozen=True)
class Judges:
    """The images that every accuracy of an audit comes from. `cross_validated`: they are the labelled images L."""

    items: list[Item]
    labels: torch.Tensor
    cross_validated: bool
    words: str


@dataclass(frozen=True)
class Subject:
    """The images that are audited. `sets`: labelled, unlabelled, validation and test."""

    listing: Listing
    images: Images
    sets: dict[str, list[Item]]
    judges: Judges
    notes: list[str]

    @property
    def labels(self) -> list[str]:
        """The classes' labels, in index order."""
        return self.listing.labels

    def numbers(self, items: list[Item]) -> torch.Tensor:
        """The class numbers of labelled images, int64 [N]."""
        return torch.from_numpy(class_numbers(items, self.labels))


@dataclass(frozen=True)
class Embedded:
    """What a model makes of them: text embeddings of the classes by each template [T, C, D], and images by set [N, D].

    The images' embeddings are normalised, float16 on the CPU.
    """

    teacher: Teacher
    templates: list[str]
    each: torch.Tensor
    z: dict[str, torch.Tensor]

    @cached_property
    def text(self) -> torch.Tensor:
        """Text embeddings of the classes over all templates [C, D]."""
        return functional.normalize(self.each.mean(0), dim=-1)

    @cached_property
    def parameters(self) -> int:
        """Parameters of the image tower."""
        return sum(parameter.numel() for parameter in self.teacher.model.visual.parameters())

    def z_of(self, judges: Judges) -> torch.Tensor:
        """The embeddings of the images that judge, float32."""
        return self.z["labelled" if judges.cross_validated else "validation"].float()


def choose_subject(listing: Listing, options: AuditImages) -> Subject:
    """Look at every image and choose the sets. Nothing is held out; the val split judges, else the labelled images."""
    images = look(listing, skip_bad_images=options.skip_bad_images)
    every_class = {item.label for item in images.splits["train"]} >= set(listing.labels)
    beside = options.labels is not None
    drawing = Labels(shots=options.shots, split_seed=options.split_seed)
    sets = choose_sets(
        images.splits, listing.labels, images.content, drawing, use_labels=every_class or beside,
        every_class=not beside,
    )  # fmt: skip
    held_out = sets.validation if sets.selection == "held-out" else []
    labelled, has_val = sets.labelled + held_out, sets.selection == "val"
    validation = sets.validation if has_val else []
    items = validation if has_val else labelled
    words = f"{len(items)} labelled images of train; probes cross-validated" if items else "no labelled image"
    judges = Judges(
        items, torch.from_numpy(class_numbers(items, listing.labels)), not has_val,
        f"{len(items)} images of the val split" if has_val else words,
    )  # fmt: skip
    notes = [note for note in sets.notes if note != hold_out_note("val", len(held_out))]
    if not every_class and not beside:
        notes.append("some class has no labelled image in train: all of it is unlabelled here")
    of_name = {"labelled": labelled, "unlabelled": sets.unlabelled, "validation": validation, "test": sets.test}
    return Subject(listing, images, of_name, judges, notes)


def embed(
    teacher: Teacher, prompts: list[str], templates: list[str], sets: dict[str, list[Item]], workers: int,
    words: str | None = None,
) -> Embedded:  # fmt: skip
    """Embed the classes' prompts and the images of the sets. `words`: what the progress bars say, else the set."""
    each = torch.stack([teacher.encode_classes(prompts, [template]) for template in templates])
    z, cuda = {}, teacher.device.type == "cuda"
    for name, items in sets.items():
        done = 0
        z[name] = torch.zeros(len(items), each.shape[-1], dtype=torch.float16)
        if not items:
            continue
        loader = DataLoader(WholeImages(items, teacher.transform), 128, num_workers=workers, pin_memory=cuda)
        with progress_bar(f"Embedding {words or name}", len(items)) as advance:
            for images in loader:
                z[name][done : done + len(images)] = teacher.encode_images(images).half().cpu()
                done += len(images)
                advance(len(images))
    return Embedded(teacher, templates, each, z)
