"""`dhox suggest`: DATA to the unlabelled images that are worth a label next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dhox.artefacts.suggestions import GUESSES, Guess, Suggestion, read_suggestions, write_suggestions
from dhox.data.dataset import Item
from dhox.distill.images.listing import Images, Listing, list_images, look
from dhox.distill.images.sets import without_copies
from dhox.distill.options import check_teacher
from dhox.distill.small_options import Selector, SuggestOptions
from dhox.distill.suggesting.embeddings import load_embedding_files, load_eyes
from dhox.distill.suggesting.field import doubtful, field_images, top_probabilities
from dhox.distill.suggesting.selectors import at_random, coreset, typiclust
from dhox.distill.suggesting.space import Space
from dhox.distill.teachers.model_config import check_config
from dhox.errors import DhoxError, UsageError
from dhox.models.export_directory import open_export
from dhox.progress import working

SELECTORS = {"typiclust": typiclust, "coreset": coreset, "random": at_random}


@dataclass(frozen=True)
class Suggested:
    """The suggestions in order, the classes, and how many images have a label and how many have none."""

    suggestions: list[Suggestion]
    classes: list[str]
    n_labelled: int
    n_pile: int

    @property
    def guessed(self) -> Counter[str]:
        """How often each class is the teacher's first guess."""
        return Counter(one.guesses[0].label for one in self.suggestions)


@dataclass(frozen=True)
class Candidates:
    """The images of DATA that have a label, and those that may be suggested: no copy of each other or of any labelled,
    validation or test image."""

    labelled: list[Item]
    pile: list[Item]

    @classmethod
    def of(cls, images: Images) -> Candidates:
        """Of DATA after a look at every image. Raises DhoxError where every image has a label."""
        splits, content = images.splits, images.content
        known: set[Hashable] = {content[item.name] for split in ("train", "val", "test") for item in splits[split]}
        pile = without_copies(splits["unlabelled"], known, content)
        if not pile:
            raise DhoxError(
                "DATA has no image without a label.", "Add images to unlabelled/, or train with what there is."
            )
        return cls(without_copies(splits["train"], set(), content), pile)


def suggest(data: Path, out: Path, options: SuggestOptions) -> Suggested:
    """Choose `n` unlabelled images of DATA and write them to the manifest `out`.

    The images that have a label, in DATA or in `labels`, count: what is like them is not suggested. Test images are
    never looked at. With an export, the images are those that its student doubts. Raises DhoxError for every mistake
    in DATA or the options, before anything is written but caches.
    """
    teacher = options.teacher.as_of_training()
    check_teacher(teacher)
    check_out(out)
    if not teacher.from_files:
        check_config(teacher.teacher)
    chosen, field = options.what, options.field
    if field.images is not None and field.from_export is None:
        raise UsageError("--images names the field of a student.", "Give --from-export EXPORT, or leave it out.")
    if field.from_export is not None:
        open_export(field.from_export)
    listing = list_images(data, chosen.classes, chosen.group_by, labels=chosen.labels)
    classes = listing.labels
    eyes = load_embedding_files(teacher, listing)
    images = look(listing, skip_bad_images=chosen.skip_bad_images, cache=options.machine.cache)
    candidates = Candidates.of(images)
    if field.images is not None:
        candidates = replace(candidates, pile=field_images(field.images, candidates.pile))
    eyes = eyes or load_eyes(teacher, options.machine, listing, images)
    items = candidates.labelled + candidates.pile
    z = eyes.embeddings(items)
    space = Space(z, eyes.text, eyes.scale, group_numbers(items), len(candidates.labelled))
    rows = torch.arange(len(items))
    if field.from_export is not None:
        top = top_probabilities(field.from_export, candidates.pile, options.machine.device)
        rows = torch.cat([rows[: space.n_labelled], doubtful(space, top, chosen.n)])
    with working("Choosing"):
        rows = rows[choose(space.only(rows), chosen.by, chosen.n, chosen.seed)]
    suggestions = described(items, rows.tolist(), space, listing)
    write_suggestions(out, suggestions)
    return Suggested(suggestions, classes, len(candidates.labelled), len(candidates.pile))


def check_out(out: Path) -> None:
    """Raise DhoxError where `out` is something else than suggestions."""
    if out.exists():
        try:
            read_suggestions(out)
        except DhoxError as err:
            raise DhoxError(f"{out} is there, and is no file of suggestions.", "Choose another --out.") from err


def choose(space: Space, by: Selector, n: int, seed: int) -> list[int]:
    """At most n rows of a space without a label, in the order in which they should be labelled."""
    generator = torch.Generator().manual_seed(seed)
    return SELECTORS[by](space, min(n, len(space.pile)), generator)


def group_numbers(items: Sequence[Item]) -> torch.Tensor:
    """A number per image, int64 [N], equal where the group is; without a group it is the image's own."""
    numbers: dict[str, int] = {}
    alone = range(len(items), 2 * len(items))
    return torch.tensor(
        [
            alone[i] if item.group is None else numbers.setdefault(item.group, len(numbers))
            for i, item in enumerate(items)
        ],
        dtype=torch.long,
    )


def described(items: list[Item], rows: list[int], space: Space, listing: Listing) -> list[Suggestion]:
    """The chosen images with the teacher's best guesses."""
    labels, found = listing.labels, []
    if not rows:
        return []
    best = space.probs(torch.tensor(rows)).topk(min(GUESSES, len(labels)))
    for row, probs, numbers in zip(rows, best.values.tolist(), best.indices.tolist(), strict=True):
        item = items[row]
        own_file = item.span is None and item.column is None
        guesses = tuple(Guess(labels[i], p) for i, p in zip(numbers, probs, strict=True))
        path = str(item.path.absolute()) if own_file else item.name
        found.append(Suggestion(path, item.name, item.group, guesses))
    return found
