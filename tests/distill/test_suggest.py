"""Which images to label: clusters, typicality, what is not suggested, and the command on real images."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quick_distill import DEMO_TEACHER, quick
from refusals import refuses
from torch.nn.functional import normalize
from typer.testing import CliRunner

from dhox.artefacts.suggestions import read_suggestions
from dhox.cli.main import app
from dhox.data.dataset import read_dataset
from dhox.distill.small_options import SuggestOptions
from dhox.distill.suggesting.clusters import cluster, fit_centres
from dhox.distill.suggesting.field import doubtful
from dhox.distill.suggesting.space import Space, squared_distances
from dhox.distill.suggesting.suggest import Suggested, choose, suggest
from dhox.errors import UsageError
from dhox.options.declare import build

CLASSES = ("bag", "dress", "sandal", "trousers")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(sizes: list[int], noise: float = 0.05, n_labelled: int = 0, seed: int = 0) -> tuple[Space, torch.Tensor]:
    """A space of clusters around the axes, shuffled but for the first `n_labelled`; and the cluster of each row."""
    own = torch.cat([torch.full((size,), i) for i, size in enumerate(sizes)])
    own = torch.cat(
        [own[:n_labelled], own[n_labelled:][torch.randperm(len(own) - n_labelled, generator=generator(seed))]]
    )
    directions = torch.eye(16)[: len(sizes)]
    z = normalize(directions[own] + noise * torch.randn(len(own), 16, generator=generator(seed)), dim=-1).half()
    return Space(z, directions, 10.0, torch.arange(len(own)), n_labelled), own


def test_one_typical_image_of_each_cluster_the_largest_first() -> None:
    space, own = blobs([80, 40, 20, 10, 5])
    chosen = choose(space, "typiclust", 5, seed=0)
    assert own[chosen].tolist() == [0, 1, 2, 3, 4]
    for row, blob in zip(chosen, range(5), strict=True):
        points = space.joint(torch.arange(len(space)))
        distances = squared_distances(points, points[own == blob].mean(0)[None])[:, 0]
        assert distances[row] < distances[own == blob].quantile(0.75)


def test_what_is_labelled_is_covered() -> None:
    space, own = blobs([30, 30, 30], n_labelled=2)  # of the first cluster
    assert set(own[choose(space, "coreset", 2, seed=1)].tolist()) == {1, 2}
    assert set(own[choose(space, "typiclust", 2, seed=1)].tolist()) <= {1, 2}


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5), n=st.integers(1, 60), labelled=st.integers(0, 6),
    by=st.sampled_from(["typiclust", "coreset", "random"]), noise=st.sampled_from([0.0, 0.1]),
)  # fmt: skip
def test_every_rule_gives_different_images_without_a_label_and_the_same_again(
    sizes: list[int], n: int, labelled: int, by: str, noise: float
) -> None:
    labelled = min(labelled, sum(sizes) - 1)
    space, _ = blobs(sizes, noise, labelled)
    chosen = choose(space, by, n, seed=3)  # type: ignore[arg-type]
    assert len(chosen) == min(n, sum(sizes) - labelled) == len(set(chosen))
    assert min(chosen) >= labelled
    assert chosen == choose(space, by, n, seed=3)  # type: ignore[arg-type]


def test_near_duplicates_come_last() -> None:
    space, own = blobs([40, 40, 40])
    twice = Space(space.z.repeat(2, 1), space.text, 10.0, torch.arange(240), 0)
    chosen = choose(twice, "typiclust", 60, seed=0)
    assert len({row % 120 for row in chosen}) == 60
    copies = Space(space.z[own.argsort()][[0] * 10 + [50]], space.text, 10.0, torch.arange(11), 0)
    assert set(choose(copies, "typiclust", 4, seed=0)[:2]) & {10}


def test_groups_are_spread_over() -> None:
    space, _ = blobs([200, 200, 200], noise=0.2)
    groups = torch.arange(600) % 3
    groups[torch.rand(600, generator=generator(1)) < 0.8] = 0  # most images are of one camera
    chosen = choose(Space(space.z, space.text, 10.0, groups, 0), "typiclust", 30, seed=0)
    counts = groups[chosen].bincount(minlength=3)
    assert counts.max() <= 18  # 24 to 27 where cameras do not count
    assert counts.min() >= 4


def test_centres_are_the_means_of_their_points() -> None:
    space, own = blobs([50, 30, 20])
    x = space.embeddings(torch.arange(100))
    centres = fit_centres(x, 3, generator())
    expected = torch.stack([x[own == i].mean(0) for i in range(3)])
    assert squared_distances(centres, expected).amin(1).max() < 1e-6
    found = cluster(space.embeddings, 100, 3, generator())
    assert len({(int(a), int(b)) for a, b in zip(found, own, strict=True)}) == 3


def test_more_clusters_than_different_points() -> None:
    x = torch.eye(3).repeat(4, 1)
    assert fit_centres(x, 8, generator()).shape == (8, 3)
    assert len(cluster(lambda rows: x[rows], 12, 20, generator())) == 12


def test_coreset_takes_the_farthest_image_each_time() -> None:
    space, _ = blobs([6, 6], noise=0.4, n_labelled=1)
    z = space.z.float()
    chosen = choose(space, "coreset", 5, seed=0)
    known = [0]
    for row in chosen:
        distances = squared_distances(z, z[known]).amin(1)
        assert distances[row] == pytest.approx(float(distances.max()), abs=1e-3)
        known.append(row)


@pytest.fixture
def pile(line: Path, tmp_path: Path) -> Path:
    """DATA with every training image unlabelled, and the test images of the line."""
    data = tmp_path / "photos"
    shutil.copytree(line / "data" / "test", data / "test")
    (data / "unlabelled").mkdir()
    for image in sorted((line / "data" / "train").glob("*/*.png")):
        shutil.copy(image, data / "unlabelled" / f"{image.parent.name}-{image.name}")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return data


def suggested(data: Path, out: str = "suggestions.csv", **options: object) -> Suggested:
    return suggest(
        data, Path(out),
        build(SuggestOptions, teacher=DEMO_TEACHER, classes=Path("classes.txt"), cache=Path("runs/cache"), device="cpu",
              **options),
    )  # fmt: skip


def test_real_images_are_suggested_and_then_the_next_ones(pile: Path) -> None:
    found = suggested(pile, n=12)
    first = read_suggestions(Path("suggestions.csv"))
    assert [one.name for one in first] == [one.name for one in found.suggestions]
    assert (found.n_labelled, found.n_pile, found.classes) == (0, 96, [*CLASSES])
    assert {one.name.split("/")[1].split("-")[0] for one in first} == {*CLASSES}
    for one in first:
        assert Path(one.path).is_file()
        probabilities = [guess.probability for guess in one.guesses]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert {guess.label for guess in one.guesses} <= {*CLASSES}
    assert len(read_dataset(Path("suggestions.csv"))["unlabelled"]) == 12  # itself a manifest
    with Path("labels.csv").open("w", newline="") as file:
        rows = [[one.path, one.name.split("/")[1].split("-")[0], one.name] for one in first]
        csv.writer(file).writerows([["path", "label", "name"], *rows])
    later = suggested(pile, n=12, labels=Path("labels.csv"))
    assert later.n_labelled == 12
    assert not {one.name for one in first} & {one.name for one in later.suggestions}


def test_copies_are_suggested_once_and_never_of_test_images(pile: Path) -> None:
    test_image = next((pile / "test").glob("*/*.png"))
    shutil.copy(test_image, pile / "unlabelled/leaked.png")
    for image in sorted((pile / "unlabelled").glob("bag-*"))[:10]:
        shutil.copy(image, image.with_name(f"again-{image.name}"))
    found = suggested(pile, n=1000)
    assert len(found.suggestions) == found.n_pile == 96
    assert "unlabelled/leaked.png" not in {one.name for one in found.suggestions}


def test_the_cache_of_a_training_is_used(pile: Path) -> None:
    labels = Path("labels.csv")
    labels.write_text(
        "name,path,label\n" + "".join(f"unlabelled/{c}-00{i}.png,,{c}\n" for c in CLASSES for i in (0, 1))
    )
    quick(pile, labels=labels)
    before = sorted(Path("runs/cache").iterdir())
    found = suggested(pile, n=8, labels=labels)
    assert sorted(Path("runs/cache").iterdir()) == before
    assert (found.n_labelled, len(found.suggestions)) == (8, 8)


def test_embeddings_computed_elsewhere_need_no_teacher(line: Path) -> None:
    rows = [[str(path), "", "unlabelled"] for path in sorted((line / "data/train").rglob("*.png"))]
    with Path("all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])
    Path("classes.txt").write_text("\n".join(CLASSES) + "\n")
    random = np.random.default_rng(0)
    np.save("w.npy", np.eye(4, 8, dtype=np.float32))
    np.save("z.npy", (np.repeat(np.eye(4, 8), 24, 0) + 0.05 * random.standard_normal((96, 8))).astype(np.float32))
    options = build(
        SuggestOptions, n=4, classes=Path("classes.txt"), teacher_embeddings=Path("z.npy"),
        class_embeddings=Path("w.npy"), teacher_scale=50, cache=Path("cache"),
    )  # fmt: skip
    found = suggest(Path("all.csv"), Path("s.csv"), options)
    assert {Path(one.path).parent.name for one in found.suggestions} == {*CLASSES}
    assert {one.guesses[0].label for one in found.suggestions} == {*CLASSES}


def test_bad_input_is_refused_and_nothing_is_lost(pile: Path, line: Path) -> None:
    Path("notes.csv").write_text("path,remark\na.png,keep me\n")
    with refuses("notes.csv", at="distill.suggesting.suggest.check_out", fix="--out"):
        suggested(pile, "notes.csv")
    assert "keep me" in Path("notes.csv").read_text()
    with refuses("without a label", at="distill.suggesting.suggest.of"):
        suggested(line / "data")
    shutil.rmtree(pile / "test")
    Path("classes.txt").write_text("bag\n")
    with refuses("two classes", at="data.dataset.class_names", fix="--classes"):
        suggested(pile)


def test_the_command_says_what_comes_next(pile: Path) -> None:
    words = [
        "suggest",
        str(pile),
        "--classes",
        "classes.txt",
        "--n",
        "200",
        "--teacher",
        DEMO_TEACHER,
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "96 of 96 images without a label" in result.output
    assert "--n 200 is more than there are" in result.output
    assert "dhox label" in result.output


def test_the_student_doubts_and_what_is_unlike_is_asked_for() -> None:
    space, own = blobs([40, 40, 40], n_labelled=20)  # of the first cluster
    top = torch.where(own[20:] == 1, 0.4, 0.9)
    rows = doubtful(space, top, 5)
    assert len(rows) == 75
    assert int((own[rows] == 1).sum()) == 40  # doubted and unlike
    assert int((own[rows] == 0).sum()) <= 2  # sure of both, and 2 is unlike
    assert len(doubtful(space, top, 90)) == 90


def test_field_images_are_chosen_by_the_student_at_work(pile: Path, line: Path) -> None:
    field = pile / "unlabelled/field"
    field.mkdir()
    for image in sorted((pile / "unlabelled").glob("sandal-*")):
        image.rename(field / image.name)
    labels = Path("labels.csv")
    labels.write_text(
        "name,path,label\n" + "".join(f"unlabelled/{c}-00{i}.png,,{c}\n" for c in CLASSES[:2] for i in (0, 1))
    )
    found = suggested(pile, n=6, labels=labels, from_export=line / "runs/tiny/export", images=field)
    assert (found.n_labelled, found.n_pile, len(found.suggestions)) == (4, 24, 6)
    assert {Path(one.path).parent for one in found.suggestions} == {field.absolute()}
    with refuses("holds no unlabelled image", at="distill.suggesting.field.field_images", fix="unlabelled/"):
        suggested(pile, n=6, from_export=line / "runs/tiny/export", images=line / "data/val")
    with refuses("--images", at="distill.suggesting.suggest.suggest", fix="--from-export", kind=UsageError):
        suggested(pile, images=field)
