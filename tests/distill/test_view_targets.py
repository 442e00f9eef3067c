"""Teachers that were run elsewhere, and the teacher online."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_file import read_adapter
from quick_distill import DEMO_TEACHER, quick
from refusals import refuses
from safetensors.numpy import save_file

from dhox.data.dataset import read_image
from dhox.data.items import Item
from dhox.distill.dry_run import plan
from dhox.distill.options import DEFAULT_TEACHER, DistillOptions
from dhox.distill.teachers.adapter import ADAPTER_FILE
from dhox.distill.teachers.teacher import DEFAULT_TEMPLATES, load_teacher
from dhox.distill.teachers.view_targets import read_rows
from dhox.options.declare import build

CLASSES = ["bag", "dress", "sandal", "trousers"]


@pytest.fixture
def elsewhere(line: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A manifest in random order, and what the demo teacher says of its whole images: z [N, 64], W [4, 64]."""
    rows = [
        [str(path), path.parent.name, split]
        for split in ("train", "val", "test")
        for path in (line / "data" / split).rglob("*.png")
    ]
    np.random.default_rng(0).shuffle(rows)
    with Path("all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])
    teacher = load_teacher(DEMO_TEACHER, torch.device("cpu"))
    pixels = torch.stack([teacher.transform(read_image(Item(row[0], row[0]))) for row in rows])
    return Path("all.csv"), teacher.encode_images(pixels).numpy(), teacher.encode_classes(
        CLASSES, list(DEFAULT_TEMPLATES)
    ).numpy()  # fmt: skip


def test_files_of_a_teacher_give_what_the_teacher_gives(elsewhere: tuple[Path, np.ndarray, np.ndarray]) -> None:
    data, z, w = elsewhere
    scale = load_teacher(DEMO_TEACHER, torch.device("cpu")).scale
    np.save("z.npy", z)
    save_file({"w": np.ascontiguousarray(w)}, "w.safetensors")
    np.save("logits.npy", scale * z @ w.T)
    by_model = quick(data, "runs/model", shots=4)
    by_embeddings = quick(
        data, "runs/z", shots=4, teacher_embeddings=Path("z.npy"), class_embeddings=Path("w.safetensors"),
        teacher_scale=scale, teacher=DEFAULT_TEACHER,
    )  # fmt: skip
    by_logits = quick(data, "runs/l", shots=4, teacher_logits=Path("logits.npy"), teacher=DEFAULT_TEACHER)
    teacher_rows = [result.summary.test[0] for result in (by_model, by_embeddings, by_logits)]
    assert teacher_rows[0].stage == "teacher"
    assert teacher_rows[0] == teacher_rows[1] == teacher_rows[2]
    assert teacher_rows[0].accuracy > 0.8
    assert by_logits.summary.teacher.views == 1
    accuracies = [result.summary.test[-1].accuracy for result in (by_embeddings, by_logits)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.03)


def test_views_computed_elsewhere_are_drawn(elsewhere: tuple[Path, np.ndarray, np.ndarray]) -> None:
    data, z, w = elsewhere
    np.save("z.npy", np.stack([z, z], axis=1))
    np.save("w.npy", w)
    files = {"teacher_embeddings": Path("z.npy"), "class_embeddings": Path("w.npy"), "teacher": DEFAULT_TEACHER}
    result = quick(data, shots=4, **files, teacher_scale=50)
    assert result.summary.teacher.views == 2
    assert result.summary.teacher.scale == 50
    with refuses("--views", 5, 2, at="distill.teachers.targets.teacher_rows"):
        quick(data, "runs/y", shots=4, **files, teacher_scale=50, views=5)


def test_files_that_do_not_fit_are_refused(line: Path, elsewhere: tuple[Path, np.ndarray, np.ndarray]) -> None:
    data, z, w = elsewhere
    np.save("short.npy", z[:-1])
    np.save("w.npy", w)
    np.save("w3.npy", w[:3])
    np.save("narrow.npy", w[:, :8])
    np.save("z.npy", z)
    np.save("three.npy", z[:, :3])
    np.save("ints.npy", np.zeros((5, 4), int))
    np.save("objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    files = {
        "teacher_embeddings": Path("z.npy"), "class_embeddings": Path("w.npy"), "teacher": DEFAULT_TEACHER,
        "teacher_scale": 100,
    }  # fmt: skip
    with refuses("short.npy", 223, 224, at="distill.teachers.view_targets.read_rows"):
        quick(data, **(files | {"teacher_embeddings": Path("short.npy")}))
    with refuses("w3.npy", 3, 4, at="distill.teachers.view_targets.read_rows"):
        quick(data, **(files | {"class_embeddings": Path("w3.npy")}))
    with refuses("narrow.npy", 8, "z.npy", 64, at="distill.teachers.targets.class_text"):
        quick(data, **(files | {"class_embeddings": Path("narrow.npy")}))
    with refuses("three.npy", 3, 4, at="distill.teachers.targets.teacher_rows", fix="--classes"):
        quick(data, teacher_logits=Path("three.npy"), teacher=DEFAULT_TEACHER)
    with refuses("DATA", at="distill.teachers.targets.teacher_rows", fix=(".csv", ".parquet")):
        quick(line / "data", teacher_logits=write_four(), teacher=DEFAULT_TEACHER)
    for name in ("objects.npy", "missing.npy"):
        with refuses(name, "logits", at="distill.teachers.view_targets.read_rows", fix=(".npy", ".safetensors")):
            read_rows(Path(name), 1, "logits")
    with refuses("ints.npy", "int64", "[5, 4]", at="distill.teachers.view_targets.read_rows"):
        read_rows(Path("ints.npy"), 5, "logits")
    assert not list(Path("runs").glob("x*"))


def write_four() -> Path:
    np.save("four.npy", np.zeros((224, 4), np.float32))
    return Path("four.npy")


def test_the_online_teacher_sees_a_fresh_view_in_every_pass(line: Path) -> None:
    result = quick(line / "data", shots=4, online_teacher=True, epochs=3, view_seed=1)
    assert result.summary.teacher.online is True
    assert result.summary.training.views == 5  # passes over the labelled images, the more often seen
    assert not list(Path("runs/cache").glob("*views"))
    assert result.summary.test[-1].n == 48


def test_streaming_without_packed_images_trains_as_well(line: Path) -> None:
    packed = quick(line / "data", "runs/packed", shots=8, epochs=4)
    streamed = quick(line / "data", "runs/streamed", shots=8, epochs=4, packed_size=0, workers=2)
    assert streamed.summary.training.packed_size == 0
    assert packed.summary.training.packed_size == 28
    a, b = (result.summary.test[-1].accuracy for result in (packed, streamed))
    assert a == pytest.approx(b, abs=0.25)


@pytest.mark.parametrize("online", [False, True])
def test_a_few_shot_teacher_is_fitted_used_and_kept(line: Path, online: bool) -> None:
    result = quick(line / "data", shots=8, epochs=3, adapter="tip-f", online_teacher=online)
    adapter = read_adapter(Path("runs/x") / ADAPTER_FILE)
    assert (len(adapter.keys), adapter.chosen_on, adapter.n) == (32, "validation", 80)
    assert any("Tip-Adapter-F on 32 labelled images" in note for note in result.summary.notes)
    assert result.summary.teacher.adapter == "tip-f"


@pytest.mark.parametrize("adapter", ["probe", "tip"])
def test_few_shot_teachers_learn_from_embeddings_computed_elsewhere(
    elsewhere: tuple[Path, np.ndarray, np.ndarray], adapter: str
) -> None:
    data, z, w = elsewhere
    np.save("z.npy", z)
    np.save("w.npy", w)
    files = {"teacher_embeddings": Path("z.npy"), "class_embeddings": Path("w.npy"), "teacher": DEFAULT_TEACHER}
    result = quick(data, shots=4, **files, teacher_scale=50, adapter=adapter)
    assert result.summary.teacher.adapter == adapter
    assert (Path("runs/x") / ADAPTER_FILE).is_file()


def test_a_plan_refuses_the_files_that_the_training_refuses(elsewhere: tuple[Path, np.ndarray, np.ndarray]) -> None:
    data, z, _ = elsewhere
    np.save("short.npy", z[:-1, :4])
    options = build(DistillOptions, teacher_logits=Path("short.npy"), student="test_resnet", student_weights="none")
    with refuses("short.npy", 223, 224, at="distill.teachers.view_targets.read_rows"):
        plan(data, Path("runs/x"), options)
