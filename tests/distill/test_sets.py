from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from dhox.data.dataset import Item, Splits
from dhox.distill.images.sets import Sets, choose_sets
from dhox.distill.options import Labels


def items(split: str, counts: dict[str, int]) -> list[Item]:
    return [Item("", f"{split}/{label}/{i:03d}", label) for label, n in counts.items() for i in range(n)]


def unique(splits: Splits) -> dict[str, str]:
    return {item.name: item.name for of_split in splits.values() for item in of_split}


def make(**counts: dict[str, int]) -> Splits:
    return {split: items(split, counts.get(split, {})) for split in ("train", "val", "test")} | {
        "unlabelled": [Item("", f"unlabelled/{i}") for i in range(sum(counts.get("unlabelled", {}).values()))]
    }


def names(sets: list[Item]) -> set[str]:
    return {item.name for item in sets}


def test_the_same_bytes_with_two_labels_are_named() -> None:
    splits = make(train={"a": 4, "b": 4}, test={"b": 1})
    content = unique(splits)
    content["train/b/001"] = content["train/a/002"]
    content["train/a/003"] = content["train/a/001"]  # a copy with the same label contradicts nothing
    content["test/b/000"] = content["train/a/000"]
    (note,) = [note for note in choose_sets(splits, ["a", "b"], content, Labels()).notes if "another label" in note]
    assert note.startswith("2 images")
    assert "train/a/002 (a) and train/b/001 (b)" in note


@given(shots=st.integers(1, 12), seed=st.integers(0, 5), with_val=st.booleans())
def test_sets_are_disjoint_and_complete(shots: int, seed: int, with_val: bool) -> None:
    splits = make(train={"a": 15, "b": 12}, val={"a": 3, "b": 3} if with_val else {}, test={"a": 2}, unlabelled={"": 4})
    sets = choose_sets(splits, ["a", "b"], unique(splits), Labels(shots=shots, split_seed=seed))
    parts = [names(part) for part in (sets.labelled, sets.unlabelled, sets.validation, sets.test)]
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == sum(len(part) for part in splits.values())
    held = 0 if with_val or shots < 5 else max(1, round(0.2 * shots))
    assert Counter(item.label for item in sets.labelled) == {"a": shots - held, "b": shots - held}
    assert sets.selection == ("val" if with_val else "held-out" if held else "none")
    assert all(item.label is None for item in sets.unlabelled)


def test_split_seed_alone_decides_which_images_are_labelled() -> None:
    splits = make(train={"a": 30, "b": 30}, val={"a": 1, "b": 1})

    def draw(seed: int) -> Sets:
        return choose_sets(splits, ["a", "b"], unique(splits), Labels(shots=4, split_seed=seed))

    assert draw(1) == draw(1)
    assert names(draw(1).labelled) != names(draw(2).labelled)


def test_copies_of_known_images_leave_the_unlabelled_set() -> None:
    splits = make(train={"a": 4, "b": 4}, val={"a": 1}, test={"b": 1}, unlabelled={"": 4})
    content = unique(splits)
    content["unlabelled/0"] = content["val/a/000"]
    content["unlabelled/1"] = content["test/b/000"]
    content["unlabelled/3"] = content["unlabelled/2"]
    content["train/a/000"] = content["test/b/000"]
    sets = choose_sets(splits, ["a", "b"], content)
    assert names(sets.unlabelled) == {"unlabelled/2"}
    assert "train/a/000" not in names(sets.labelled)
    assert any("1 images of train are copies" in note for note in sets.notes)
    assert any("3 unlabelled images are copies" in note for note in sets.notes)


@given(seed=st.integers(0, 20))
def test_held_out_images_have_no_copy_in_training(seed: int) -> None:
    splits = make(train={"a": 30, "b": 30})
    content = {
        item.name: f"{item.label}{int(item.name[-3:]) // 2}" for item in splits["train"]
    }  # everything stands twice
    sets = choose_sets(splits, ["a", "b"], content, Labels(shots=10, split_seed=seed))
    held = {content[item.name] for item in sets.validation}
    assert len(held) == 4
    assert not held & {content[item.name] for item in sets.labelled + sets.unlabelled}


def test_label_fraction_takes_its_share_of_every_class() -> None:
    splits = make(train={"a": 40, "b": 7}, val={"a": 1, "b": 1})
    sets = choose_sets(splits, ["a", "b"], unique(splits), Labels(label_fraction=0.1))
    assert Counter(item.label for item in sets.labelled) == {"a": 4, "b": 1}
    assert len(sets.unlabelled) == 42


def test_without_labels_all_of_train_is_unlabelled() -> None:
    splits = make(train={"a": 4, "b": 4})
    sets = choose_sets(splits, ["a", "b"], unique(splits), use_labels=False)
    assert (len(sets.labelled), len(sets.unlabelled), sets.selection) == (0, 8, "none")
    empty = make(test={"a": 1})
    with refuses(at="distill.images.sets.choose_sets", fix=("train/CLASS/", "unlabelled/")):
        choose_sets(empty, ["a", "b"], unique(empty), use_labels=False)


def test_more_shots_than_images_and_empty_classes_are_named() -> None:
    splits = make(train={"a": 9, "b": 3})
    with refuses("--shots 4", "b (3)", at="distill.images.samplers.draw_labelled", fix="--shots"):
        choose_sets(splits, ["a", "b"], unique(splits), Labels(shots=4))
    with refuses("c", at="distill.images.samplers._images_of_classes"):
        choose_sets(splits, ["a", "b", "c"], unique(splits))


def test_groups_never_straddle_training_and_held_out_images() -> None:
    splits = make(train={"a": 40, "b": 40})
    splits["train"] = [Item(i.file, i.name, i.label, f"camera{n % 8}") for n, i in enumerate(splits["train"])]
    sets = choose_sets(splits, ["a", "b"], unique(splits), Labels(shots=20))
    group = {item.name: item.group for item in splits["train"]}
    held = {group[name] for name in names(sets.validation)}
    assert held
    assert not held & {group[name] for name in names(sets.labelled) | names(sets.unlabelled)}
    one = make(train={"a": 10, "b": 10})
    one["train"] = [Item(i.file, i.name, i.label, "camera") for i in one["train"]]
    with refuses("a, b", at="distill.images.sets._hold_out", fix="val"):
        choose_sets(one, ["a", "b"], unique(one))


def plain_hold_out(labelled: list[Item], labels: list[str], seed: int) -> set[str]:
    """The names that are held out, by the description: every label looks at every image."""
    generator = np.random.default_rng(seed)
    for label in labels:  # as the labelled images were drawn
        generator.permutation(sum(item.label == label for item in labelled))
    held: list[str] = []
    for label in labels:
        items = [item for item in labelled if item.label == label]
        wanted = max(1, round(0.2 * len(items)))
        for i in generator.permutation(len(items)):
            if sum(item.label == label and item.name in held for item in labelled) >= wanted:
                break
            own = [o for o in labelled if (o.group or o.name) == (items[i].group or items[i].name)]
            held += [item.name for item in own if item.name not in held]
    return set(held)


@given(counts=st.lists(st.integers(5, 14), min_size=2, max_size=6), cameras=st.integers(0, 40), seed=st.integers(0, 9))
def test_held_out_images_are_those_of_a_plain_evaluation(counts: list[int], cameras: int, seed: int) -> None:
    labels = [f"c{i}" for i in range(len(counts))]
    splits = make(train=dict(zip(labels, counts, strict=True)))
    random = np.random.default_rng(seed)
    splits["train"] = [
        Item(
            i.file,
            i.name,
            i.label,
            f"camera{random.integers(cameras)}" if cameras > 3 and random.random() < 0.7 else None,
        )
        for i in splits["train"]
    ]
    wanted = plain_hold_out(splits["train"], labels, seed)
    left = {item.label for item in splits["train"] if item.name not in wanted}
    if left < set(labels):
        with refuses(at="distill.images.sets._hold_out", fix="val"):
            choose_sets(splits, labels, unique(splits), Labels(split_seed=seed))
    else:
        sets = choose_sets(splits, labels, unique(splits), Labels(split_seed=seed))
        assert names(sets.validation) == wanted
        assert names(sets.labelled) == names(splits["train"]) - wanted


def test_many_classes_are_split_in_one_pass() -> None:
    """A second; every label looking at every image would take minutes."""
    splits: Splits = {split: [] for split in ("train", "unlabelled", "val", "test")}
    labels = [f"c{i:05d}" for i in range(20_000)]
    splits["train"] = [Item("", f"{label}/{i}", label) for label in labels for i in range(5)]
    sets = choose_sets(splits, labels, unique(splits))
    assert (len(sets.labelled), len(sets.validation)) == (80_000, 20_000)


def test_an_image_that_judges_never_trains_nor_tests() -> None:
    splits = make(train={"a": 20, "b": 20}, val={"a": 4, "b": 4}, test={"a": 3, "b": 3})
    content = unique(splits)
    content["val/a/000"] = content["test/a/000"]
    sets = choose_sets(splits, ["a", "b"], content, Labels(shots=4))
    assert "val/a/000" not in names(sets.validation)
    assert "1 images of val are copies of test images and were dropped" in sets.notes
    for item in splits["train"]:  # every image of train stands there twice
        content[item.name] = content[item.name].rsplit("/", 1)[0] + f"/{int(item.name[-3:]) // 2}"
    drawn = choose_sets(
        splits, ["a", "b"], content, Labels(shots=16, label_sampler="few-shot-reference"), tune_on="held-out"
    )
    judging, training = ({content[item.name] for item in part} for part in (drawn.validation, drawn.labelled))
    assert judging
    assert not judging & training
    assert not judging & {content[item.name] for item in drawn.unlabelled}
