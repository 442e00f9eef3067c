"""The teacher cache, packed images and `dhox cache`, on real images and the real teacher."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from quick_distill import DEMO_TEACHER, quick, without
from refusals import named, refuses

from dhox.artefacts.files import sha256
from dhox.cli.main import main
from dhox.data.dataset import Item, read_dataset
from dhox.distill.images import scan as scan_module
from dhox.distill.images.scan import scan
from dhox.distill.images.views import render, view_boxes, view_keys
from dhox.distill.small_options import CacheOptions
from dhox.distill.teachers.cache import WHOLE, TeacherViews, cache_folder, cache_recipe, embedding_batches, weights_hash
from dhox.distill.teachers.cache_upkeep import entries, fill
from dhox.distill.teachers.teacher import load_teacher
from dhox.options.declare import build

CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {"packed_size": 28, "device": "cpu", "workers": 0}


def fill_here(data: Path, views: int = 2) -> dict[str, int]:
    """Fill ./c; images per kind of cache."""
    found = fill(data, Path("c"), build(CacheOptions, teacher=DEMO_TEACHER, views=views, **OPTIONS))
    return {entry.folder.name: entry.images for entry in found}


def test_cached_embeddings_are_those_of_the_views_that_the_student_sees(tmp_path: Path) -> None:
    teacher = load_teacher(DEMO_TEACHER, CPU)
    random = np.random.default_rng(0)
    items = []
    for n in range(3):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png")
        items.append(Item(f"{tmp_path}/{n}.png", f"train/a/{n}.png"))
    dataset = TeacherViews(items, np.full((3, 2), (50, 40)), 2, 5, teacher.size, teacher.interpolation)
    embeddings = np.concatenate(list(embedding_batches(teacher, dataset, 2, workers=0)))
    assert embeddings.shape == (3, 2, teacher.width)
    assert embeddings.dtype == np.float16
    for i, item in enumerate(items):
        box = view_boxes(view_keys([item.name], 5), np.array([1]), np.array([[50, 40]]))[0]
        with Image.open(item.path) as image:
            crop = render(image.convert("RGB"), box, 28, "bicubic")
        z = teacher.encode_images(teacher.transform(Image.fromarray(crop))[None])[0]
        assert torch.allclose(torch.from_numpy(embeddings[i, 1]).float(), z, atol=2e-3)


def test_a_cache_is_its_teachers_image_tower_views_and_seed() -> None:
    teacher = load_teacher(DEMO_TEACHER, CPU)
    before = weights_hash(teacher)
    recipes = [cache_recipe(teacher, before, *case) for case in ((2, 0), (3, 0), (2, 1), (WHOLE, 0), (WHOLE, 1))]
    assert len({cache_folder(Path(), recipe)[0] for recipe in recipes}) == 4  # whole images have no view seed
    with torch.no_grad():
        next(iter(teacher.model.transformer.parameters())).add_(1)
    assert weights_hash(teacher) == before  # the text tower does not matter
    with torch.no_grad():
        next(iter(teacher.model.visual.parameters())).add_(1)
    assert weights_hash(teacher) != before


def test_new_images_cost_only_themselves_and_changed_ones_are_computed_again(
    line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = without(line / "data")
    assert {name.split("-")[-1]: n for name, n in fill_here(data).items()} == {"28": 96, "2views": 96, "whole": 128}
    import dhox.distill.teachers.cache as cache_module

    embedded: list[int] = []
    real = cache_module.embedding_batches

    def counting(teacher: object, dataset: object, views: int, workers: int) -> object:
        embedded.append(len(dataset))  # type: ignore[arg-type]
        return real(teacher, dataset, views, workers)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_module, "embedding_batches", counting)
    fill_here(data)
    assert embedded == []
    shutil.copy(data / "train/bag/000.png", data / "train/dress/copy.png")
    Image.new("RGB", (28, 28), "red").save(data / "train/bag/001.png")
    found = fill_here(data)
    assert embedded == [2]
    assert {name.split("-")[-1]: n for name, n in found.items()}["2views"] == 98


def test_training_uses_the_cache_and_refuses_a_damaged_one(line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_here(line / "data")
    files = {path: path.stat().st_mtime_ns for path in Path("c").rglob("*.safetensors")}
    quick(line / "data", shots=4, cache=Path("c"), epochs=3)
    assert {path: path.stat().st_mtime_ns for path in Path("c").rglob("*.safetensors")} == files
    victim = next(path for path in files if "2views" in str(path))
    victim.write_bytes(victim.read_bytes()[:-10])
    with refuses(victim.name, "truncated", at="distill.images.shards.refuse_damaged", fix="dhox cache --repair"):
        quick(line / "data", shots=4, cache=Path("c"), epochs=3, overwrite=True)

    def exit_code(*arguments: str) -> int | str | None:
        with pytest.raises(SystemExit) as end:
            main(["cache", *arguments])
        return end.value.code

    for option in ("--info", "--verify"):
        capsys.readouterr()
        assert exit_code(option, "c") == 1
        said = capsys.readouterr()
        assert f"{victim.name}: truncated" in said.out
    assert "dhox cache --repair c" in said.err
    assert exit_code("--repair", "c") == 0
    quick(line / "data", shots=4, cache=Path("c"), epochs=3, overwrite=True)
    assert exit_code("--verify", "c") == 0


def test_only_verify_compares_the_bytes(line: Path) -> None:
    fill_here(line / "data")
    victim = next(Path("c").glob("packed-28/*.safetensors"))
    content = bytearray(victim.read_bytes())
    content[-5] ^= 1
    victim.write_bytes(content)
    assert not any(entry.damaged for entry in entries(Path("c"), checksums=False))
    assert sum(len(entry.damaged) for entry in entries(Path("c"), checksums=True)) == 1


def test_another_teachers_cache_in_this_ones_place_is_refused(line: Path) -> None:
    fill_here(line / "data")
    header = next(Path("c").glob("*2views/shards.json"))
    content = json.loads(header.read_text())
    content["recipe"]["teacher_weights"] = "0" * 64
    header.write_text(json.dumps(content))
    with refuses("teacher_weights", "0" * 64, at="distill.images.shards.prepare", fix="--cache"):
        quick(line / "data", shots=4, cache=Path("c"), epochs=3)


def test_a_cache_with_more_views_serves_a_shorter_training(line: Path) -> None:
    fill_here(line / "data", views=8)
    quick(line / "data", shots=4, cache=Path("c"), epochs=3)
    assert [path.name.split("-")[-1] for path in Path("c").glob("*views")] == ["8views"]


def test_the_architecture_belongs_to_the_cache_as_the_weights_do(tmp_path: Path) -> None:
    shutil.copytree(DEMO_TEACHER.removeprefix("local-dir:"), tmp_path / "t")
    config = json.loads((tmp_path / "t/open_clip_config.json").read_text())
    hashes = []
    for quick_gelu in (False, True):
        config["model_cfg"]["quick_gelu"] = quick_gelu
        (tmp_path / "t/open_clip_config.json").write_text(json.dumps(config))
        hashes.append(weights_hash(load_teacher(f"local-dir:{tmp_path / 't'}", CPU)))
    assert hashes[0] != hashes[1]
    assert hashes[0] == weights_hash(load_teacher(DEMO_TEACHER, CPU))


def remembered(memory: Path) -> list[str]:
    """The names of the lines in the file of a scan."""
    return [json.loads(line)[0] for line in memory.read_text().splitlines() if line]


def test_a_file_that_could_not_be_read_is_looked_at_again(line: Path) -> None:
    data, memory = without(line / "data"), Path("c/scan.jsonl")
    bad = data / "train/bag/000.png"
    good = bad.read_bytes()
    bad.write_bytes(b"bad")
    assert scan(read_dataset(data), True, memory)[1]["train/bag/000.png"].reason
    assert "train/bag/000.png" not in remembered(memory)
    assert len(remembered(memory)) == 223
    bad.write_bytes(good)
    assert scan(read_dataset(data), True, memory)[1]["train/bag/000.png"].reason is None


def test_a_scan_is_remembered_until_a_file_changes(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, memory = without(line / "data"), Path("c/scan.jsonl")
    looked: list[str] = []
    real = scan_module.see
    monkeypatch.setattr(scan_module, "see", lambda item: looked.append(item.name) or real(item))
    first = scan(read_dataset(data), False, memory)[1]
    assert len(looked) == 224
    assert scan(read_dataset(data), False, memory)[1] == first
    assert len(looked) == 224
    Image.new("RGB", (30, 20)).save(data / "train/bag/000.png")
    assert scan(read_dataset(data), False, memory)[1]["train/bag/000.png"].width == 30
    assert looked[224:] == ["train/bag/000.png"]
    memory.write_text("{ damaged")
    scan(read_dataset(data), False, memory)
    assert len(looked) == 225 + 224
    assert scan(read_dataset(data), False, memory)[1]["train/bag/000.png"].width == 30
    assert len(looked) == 225 + 224


def test_the_file_of_a_scan_grows_by_lines_and_is_written_again_when_most_are_stale(line: Path) -> None:
    data, memory = without(line / "data"), Path("c/scan.jsonl")
    scan(read_dataset(data), False, memory)
    first = memory.read_bytes()
    assert sorted(remembered(memory)) == sorted(item.name for items in read_dataset(data).values() for item in items)
    assert len(first) < 130 * 224
    paths = sorted(data.rglob("*.png"))
    for path in paths[:224]:  # all of them are others now: as many stale lines as good ones
        path.write_bytes(path.read_bytes() + b"\0")
    content = scan(read_dataset(data), False, memory)[1]
    assert memory.read_bytes().startswith(first)
    assert len(remembered(memory)) == 448
    paths[0].write_bytes(paths[0].read_bytes() + b"\0")
    changed = scan(read_dataset(data), False, memory)[1]
    assert len(remembered(memory)) == 224
    assert scan(read_dataset(data), False, memory)[1] == changed
    assert {name for name, seen in changed.items() if seen != content[name]} == {str(paths[0].relative_to(data))}
    assert not list(memory.parent.glob("*.tmp"))


def test_a_torn_line_is_looked_at_again_and_the_next_one_begins_anew(
    line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, memory = without(line / "data"), Path("c/scan.jsonl")
    scan(read_dataset(data), False, memory)
    whole = memory.read_bytes()
    last = remembered(memory)[-1]
    looked: list[str] = []
    real = scan_module.see
    monkeypatch.setattr(scan_module, "see", lambda item: looked.append(item.name) or real(item))
    for cut in (1, 2, 60):  # without its end of line, it still says all
        memory.write_bytes(whole[:-cut])
        scan(read_dataset(data), False, memory)
        assert looked == ([] if cut == 1 else [last])
        looked.clear()
        scan(read_dataset(data), False, memory)
        assert looked == []


def test_two_scans_may_append_to_one_file(line: Path) -> None:
    data, memory = without(line / "data"), Path("c/scan.jsonl")
    code = (
        "import sys; from pathlib import Path; import dhox.distill.images.scan as s; "
        "from dhox.data.dataset import read_dataset; s.SAVE_SECONDS = 0.0; "
        "s.scan(read_dataset(Path(sys.argv[1])), False, Path(sys.argv[2]))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(data), str(memory)]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    names = remembered(memory)
    assert len(names) <= 448
    assert len(set(names)) == 224


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_what_was_written_stays(line: Path) -> None:
    """A limit on file sizes stands for the full disk: the write fails in the middle."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "
        "from dhox.cli.main import main; main(sys.argv[1:])"
    )
    arguments = f"cache {line / 'data'} --cache c --teacher {DEMO_TEACHER} --packed-size 28 --views 2".split()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 1
    assert named("File too large", done.stderr)  # the system's words
    assert "Traceback" not in done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 60_000
    assert not list(Path("c").rglob("packed-28/*.safetensors"))
    assert sum(entry.images for entry in entries(Path("c"), checksums=True)) > 0
    fill_here(line / "data", views=8)


def test_a_disk_that_is_too_small_is_told_before_anything_is_computed(
    line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dhox.distill.images.packed.free_bytes", lambda place: 100_000)
    with refuses(96, at="distill.images.packed.fill_packed", fix=("--packed-size", "--cache")):
        fill_here(line / "data")
    monkeypatch.setattr("dhox.distill.teachers.cache.free_bytes", lambda place: 100)
    with refuses(96, at="distill.teachers.cache.fill_cache", fix=("--views", "--cache")):
        fill_here(line / "data", views=3)


def test_files_made_together_are_the_same_bytes_as_files_made_alone(line: Path) -> None:
    fill_here(line / "data")
    first = {path.name: sha256(path) for path in Path("c").rglob("*2views/*.safetensors")}
    shutil.rmtree("c")
    fill_here(line / "data")
    assert {path.name: sha256(path) for path in Path("c").rglob("*2views/*.safetensors")} == first


def test_a_folder_without_caches_is_an_error() -> None:
    Path("empty").mkdir()
    with refuses("empty", at="distill.teachers.cache_upkeep", fix="--cache"):
        entries(Path("empty"), checksums=False)
