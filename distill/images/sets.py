"""Which images are labelled (L), unlabelled (U), validation and test: the rules of the sets, without torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from dhox.artefacts.run import SetsSummary, Source
from dhox.data.dataset import Item, Splits, shorten
from dhox.distill.images.samplers import draw_few_shot_reference, draw_labelled, draw_percent_reference
from dhox.distill.options import Labels, check_labels
from dhox.errors import DhoxError

HOLD_OUT_SHARE = 0.2  # of the labelled images of a class, where DATA has no val
HOLD_OUT_FROM = 5  # labelled images per class; with fewer, none is held out


@dataclass(frozen=True)
class Sets:
    """The training sets of one run. `labelled` and `unlabelled` share no content with each other or with val and test.

    `selection`: where validation comes from, `val` (DATA's split), `held-out` (of the labelled images) or `none`.
    """

    labelled: list[Item]
    unlabelled: list[Item]
    validation: list[Item]
    test: list[Item]
    selection: Source
    notes: list[str] = field(default_factory=list)

    def summary(self, options: Labels, tune_on: str) -> SetsSummary:
        """The sets as run.json holds them: counts, and the names that an image folder alone would not tell."""
        return SetsSummary(
            n_labelled=len(self.labelled), n_unlabelled=len(self.unlabelled), n_validation=len(self.validation),
            n_test=len(self.test), selection=self.selection, labelled=[item.name for item in self.labelled],
            validation=[item.name for item in self.validation], label_sampler=options.label_sampler, tune_on=tune_on,
            group_by=options.group_by,
        )  # fmt: skip


def choose_sets(
    splits: Splits,
    labels: list[str],
    content: Mapping[str, Hashable],
    options: Labels = Labels(),  # noqa: B008 - frozen
    *,
    use_labels: bool = True,
    every_class: bool = True,
    tune_on: str = "val",
) -> Sets:
    """Choose L and U from DATA's splits.

    `labels`: the class list. `content`: image name -> content hash. `options`: how many labelled images, and how they
    are drawn. `use_labels` False (method kd): L is empty and all of train is unlabelled. `every_class`: refuse classes
    without a labelled image, else say which the teacher alone teaches. `tune_on`: what chooses alpha and beta: `val`
    (DATA's val, held-out labels where DATA has none), `held-out` (20 % of L, and DATA's val is left out) or `none`
    (nothing: no label is held out, and val is left out). Raises DhoxError for more shots than images, for classes
    without a labelled image, and where no training image is left; UsageError for a reference sampler without its
    --shots or --label-fraction.
    """
    notes: list[str] = []
    known = {content[item.name] for split in ("val", "test") for item in splits[split]}
    train = without_copies(splits["train"], known, content)
    if len(train) < len(splits["train"]):
        notes.append(
            f"{len(splits['train']) - len(train)} images of train are copies of val, test or other training images "
            "and were dropped"
        )
    notes += contradictions(splits, content)
    generator = np.random.default_rng(options.split_seed)
    labelled: list[Item] = []
    taught = labels
    if use_labels:
        check_labels(options, uses_labels=True)
        copies = {item.name for item in splits["train"] if content[item.name] in known}
        taught = labels if every_class else labelled_classes(train, labels, notes)
        labelled = draw(splits["train"], train, taught, copies, options, generator, notes)
    validation = _own_validation(splits, content, tune_on, notes)
    selection: Source = "val" if validation else "none"
    if tune_on == "none":
        notes.append("--tune-on none: there is no validation, and alpha and beta stay fixed")
    elif labelled and not validation:
        labelled, validation = _hold_out(labelled, taught, generator)
        selection = "held-out" if validation else "none"
        notes.append(hold_out_note(tune_on, len(validation)))

    # The reference samplers may draw copies: an image that validates must not train.
    judging = {content[item.name] for item in validation}
    labelled = [item for item in labelled if content[item.name] not in judging]
    unlabelled = _the_rest(splits, train, labelled, validation, content, notes)
    if not labelled and not unlabelled:
        raise DhoxError(
            "Neither a labelled nor an unlabelled training image was found.",
            "Add images to train/CLASS/ or unlabelled/.",
        )
    return Sets(labelled, unlabelled, validation, splits["test"], selection, notes)


def labelled_classes(train: list[Item], labels: list[str], notes: list[str]) -> list[str]:
    """The classes that have a labelled image in train, in index order; a note names those that have none."""
    found = {item.label for item in train}
    without = [label for label in labels if label not in found]
    if without:
        notes.append(
            f"no label yet for {len(without)} of {len(labels)} classes, which the teacher alone teaches: "
            f"{shorten(without)}"
        )
    return [label for label in labels if label in found]


def contradictions(splits: Splits, content: Mapping[str, Hashable]) -> list[str]:
    """A note where images of the same bytes have two labels: one of them is wrong."""
    labelled = [item for split in ("train", "val", "test") for item in splits[split]]
    seen: set[Hashable] = set()
    repeated: set[Hashable] = set()
    for item in labelled:
        (repeated if content[item.name] in seen else seen).add(content[item.name])
    first: dict[Hashable, Item] = {}
    pairs = []
    for item in labelled if repeated else []:
        if content[item.name] in repeated and first.setdefault(content[item.name], item).label != item.label:
            pairs.append((first[content[item.name]], item))
    if not pairs:
        return []
    one, other = pairs[0]
    return [
        f"{len(pairs)} images have the bytes of another one with another label, so one of the two is wrong, such as "
        f"{one.name} ({one.label}) and {other.name} ({other.label})"
    ]


def draw(
    whole: list[Item], train: list[Item], labels: list[str], copies: set[str], options: Labels,
    generator: np.random.Generator, notes: list[str],
) -> list[Item]:  # fmt: skip
    """The labelled images.

    `train`: without copies; the reference samplers draw from the `whole` split, as the authors do, and what they drew
    that stands in val or test too (the names `copies`) is dropped afterwards.
    """
    if options.label_sampler == "dhox":
        return draw_labelled(train, labels, options.shots, options.label_fraction, generator)
    if options.shots is not None:
        drawn = draw_few_shot_reference(whole, labels, options.shots)
    else:
        drawn = draw_percent_reference(whole, labels, options.label_fraction or 1.0)
    labelled = [item for item in drawn if item.name not in copies]
    repeated = len(labelled) - len({item.name for item in labelled})
    notes.append(
        f"{options.label_sampler}: {len(drawn)} images drawn as the authors draw them, {repeated} of them repeats; "
        f"{len(drawn) - len(labelled)} that are copies of val or test were dropped"
    )
    return labelled


def _own_validation(splits: Splits, content: Mapping[str, Hashable], tune_on: str, notes: list[str]) -> list[Item]:
    """DATA's own validation images without those that are test images too; none where something else chooses."""
    if tune_on != "val":
        if splits["val"]:
            notes.append(f"--tune-on {tune_on}: the {len(splits['val'])} images of val are left out")
        return []
    in_test = {content[item.name] for item in splits["test"]}
    validation = [item for item in splits["val"] if content[item.name] not in in_test]
    if len(validation) < len(splits["val"]):
        notes.append(f"{len(splits['val']) - len(validation)} images of val are copies of test images and were dropped")
    return validation


def hold_out_note(tune_on: str, n: int) -> str:
    """What was held out and why."""
    why = "--tune-on held-out" if tune_on == "held-out" else "DATA has no val"
    if n:
        return f"{why}: {n} of the labelled images are held out for validation"
    return (
        f"{why} and some class has fewer than {HOLD_OUT_FROM} labels: there is no validation, "
        "and alpha and beta stay fixed"
    )


def _the_rest(
    splits: Splits, train: list[Item], labelled: list[Item], validation: list[Item],
    content: Mapping[str, Hashable], notes: list[str],
) -> list[Item]:  # fmt: skip
    """U: the rest of train and DATA's unlabelled images, labels dropped; no copy of an image of another set."""
    drawn = {item.name for item in labelled} | {item.name for item in validation}
    rest = [item for item in train if item.name not in drawn] + splits["unlabelled"]
    groups = {item.group for item in validation} - {None}
    apart = [item for item in rest if item.group not in groups]
    if len(apart) < len(rest):
        notes.append(f"{len(rest) - len(apart)} unlabelled images share a group with validation and were dropped")
    known = {content[item.name] for item in labelled + validation + splits["val"] + splits["test"]}
    unlabelled = without_copies(apart, known, content)
    if len(unlabelled) < len(apart):
        notes.append(
            f"{len(apart) - len(unlabelled)} unlabelled images are copies of labelled, validation, test or other "
            "unlabelled images and were dropped"
        )
    return [item if item.label is item.group is None else replace(item, label=None, group=None) for item in unlabelled]


def _hold_out(labelled: list[Item], labels: list[str], generator: np.random.Generator) -> tuple[list[Item], list[Item]]:
    """Split L into (training part, held-out part), stratified; whole groups where images have them.

    `labels`: the classes that have a labelled image, in index order.
    Nothing is held out where a class has fewer than HOLD_OUT_FROM labelled images.
    """
    counts = Counter(item.label for item in labelled)
    if min(counts.values()) < HOLD_OUT_FROM:
        return labelled, []
    members: dict[str, list[Item]] = defaultdict(list)
    of_class: dict[str, list[Item]] = defaultdict(list)
    for item in labelled:
        members[item.group or item.name].append(item)
        of_class[str(item.label)].append(item)
    held: set[str] = set()
    n_held: Counter[str | None] = Counter()
    for label in labels:
        items = of_class[label]
        wanted = max(1, round(HOLD_OUT_SHARE * len(items)))
        for i in generator.permutation(len(items)):
            if n_held[label] >= wanted:
                break
            new = [item for item in members[items[i].group or items[i].name] if item.name not in held]
            held |= {item.name for item in new}
            n_held.update(item.label for item in new)
    remaining = [item for item in labelled if item.name not in held]
    lost = sorted(set(labels) - {str(item.label) for item in remaining})
    if lost:
        raise DhoxError(
            f"Holding out whole groups leaves no labelled image of: {shorten(lost)}.",
            "Give DATA a val split of its own.",
        )
    return remaining, [item for item in labelled if item.name in held]


def without_copies(items: list[Item], known: set[Hashable], content: Mapping[str, Hashable]) -> list[Item]:
    """The items whose content is neither known nor that of an earlier item."""
    seen = set(known)
    kept = []
    for item in items:
        if content[item.name] not in seen:
            kept.append(item)
        seen.add(content[item.name])
    return kept
