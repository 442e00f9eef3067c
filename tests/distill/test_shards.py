from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from dhox.artefacts.shards import ShardHeader
from dhox.distill.images.shards import (
    Shard,
    examine,
    list_files,
    missing_share,
    open_rows,
    prepare,
    read_shards,
    repair,
    row_key,
    rows_per_file,
    write_rows,
)

RECIPE = {"rows": "numbers", "seed": 0}
KEYS = [row_key(str(i), "content") for i in range(25)]
HEADER = ShardHeader(about={}, recipe=RECIPE, row_shape=[2, 3], dtype="float16", keys="", sha256="0" * 64)
ROWS = np.random.default_rng(0).integers(0, 255, (25, 2, 3)).astype(np.float16)


def write(folder: Path, first: int, last: int, per_file: int = 10) -> None:
    batches = [ROWS[i : min(i + 4, last)] for i in range(first, last, 4)]
    write_rows(folder, KEYS[first:last], batches, per_file, lambda n: None)


def filled(tmp_path: Path) -> Path:
    folder = tmp_path / "s"
    prepare(folder, RECIPE, (2, 3), "float16")
    write(folder, 0, 25)
    list_files(folder)
    return folder


def test_rows_come_back_by_key_in_any_order(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    assert len(list(folder.glob("*.safetensors"))) == 3
    order = np.random.default_rng(1).permutation(25)
    rows = open_rows(folder, [KEYS[i] for i in order])
    assert len(rows) == 25
    assert rows.row_shape == (2, 3)
    numbers = np.array([3, 3, 24, 0])
    assert (rows.take(numbers, np.empty((4, 2, 3), np.float16)) == ROWS[order[numbers]]).all()
    parts = np.array([0, 1, 1, 0])
    assert (rows.take_part(numbers, parts) == ROWS[order[numbers], parts]).all()


def test_new_keys_are_appended_and_old_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    prepare(folder, RECIPE, (2, 3), "float16")
    write(folder, 0, 12)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert missing_share(KEYS, read_shards(folder, checksums=True), 10, 0, 1) == list(range(12, 25))
    prepare(folder, RECIPE, (2, 3), "float16")
    write(folder, 12, 25)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert before.items() <= after.items()
    assert (open_rows(folder, KEYS).take(np.arange(25), np.empty((25, 2, 3), np.float16)) == ROWS).all()


@given(there=st.integers(0, 25), per_file=st.integers(1, 30), world=st.integers(1, 5))
def test_processes_deal_out_whole_files_and_miss_nothing(there: int, per_file: int, world: int) -> None:
    shards = [Shard(Path("x"), KEYS[:there], 0, HEADER)]
    shares = [missing_share(KEYS + KEYS[:3], shards, per_file, rank, world) for rank in range(world)]
    assert sorted(number % 25 for share in shares for number in share) == list(range(there, 25))
    files = [missing_share(KEYS, shards, per_file, 0, 1)[i : i + per_file] for i in range(0, 25 - there, per_file)]
    for rank, share in enumerate(shares):
        assert {number % 25 for number in share} == {number for file in files[rank::world] for number in file}


def test_another_recipe_is_refused_with_what_differs(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    with refuses("seed", 0, 1, at="distill.images.shards.prepare", fix="--cache"):
        prepare(folder, {"rows": "numbers", "seed": 1}, (2, 3), "float16")
    with refuses("row_shape", "[2, 3]", "[4, 3]", at="distill.images.shards.prepare", fix="--cache"):
        prepare(folder, RECIPE, (4, 3), "float16")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"), "checksum"),
        (lambda path: path.write_bytes(b"nothing of the kind"), "no header"),
        (lambda path: path.write_bytes(b""), "no header"),
        (lambda path: path.unlink(), "missing"),
    ],
)
def test_damage_is_refused_then_repaired(tmp_path: Path, damage: object, reason: str) -> None:
    folder = filled(tmp_path)
    victim = sorted(folder.glob("*.safetensors"))[1]
    n_lost = next(len(shard.keys) for shard in read_shards(folder, checksums=True) if shard.path == victim)
    damage(victim)  # type: ignore[operator]
    with refuses(victim.name, reason, at="distill.images.shards.read_shards", fix="dhox cache --repair"):
        open_rows(folder, KEYS)
    assert reason in repair(folder)[victim.name]
    assert examine(folder, checksums=True)[1] == {}
    missing = missing_share(KEYS, read_shards(folder, checksums=True), 10, 0, 1)
    assert len(missing) == n_lost
    write_rows(folder, [KEYS[i] for i in missing], [ROWS[missing]], 10, lambda n: None)
    assert (open_rows(folder, KEYS).take(np.arange(25), np.empty((25, 2, 3), np.float16)) == ROWS).all()


def test_an_interrupted_write_leaves_whole_files_only(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    prepare(folder, RECIPE, (2, 3), "float16")

    def batches():  # type: ignore[no-untyped-def]
        yield ROWS[:10]
        yield ROWS[10:14]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(folder, KEYS, batches(), 10, lambda n: None)
    assert missing_share(KEYS, read_shards(folder, checksums=True), 10, 0, 1) == list(range(10, 25))


def test_keys_depend_on_name_and_content() -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    assert len({row_key("a", digest), row_key("b", digest), row_key("a", "other")}) == 3


def test_files_are_bounded() -> None:
    assert rows_per_file((8, 1024), "float16") == 1024
    assert rows_per_file((366, 366, 3), "uint8") == 166
    assert rows_per_file((10_000, 10_000, 3), "uint8") == 1
