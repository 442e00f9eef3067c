from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from dhox.artefacts.shards import ShardHeader
from dhox.distill.images.shards import (
    KEY,
    Shard,
    examine,
    list_files,
    missing_rows,
    open_rows,
    prepare,
    read_shards,
    repair,
    row_keys,
    rows_per_file,
    share_of,
    write_rows,
)

RECIPE = {"rows": "numbers", "seed": 0}
KEYS = row_keys(map(str, range(25)), ["content"] * 25)
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
    rows = open_rows(folder, KEYS[order])
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
    assert missing_rows(KEYS, read_shards(folder, checksums=True)).tolist() == [*range(12, 25)]
    prepare(folder, RECIPE, (2, 3), "float16")
    write(folder, 12, 25)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert before.items() <= after.items()
    assert (open_rows(folder, KEYS).take(np.arange(25), np.empty((25, 2, 3), np.float16)) == ROWS).all()


@given(there=st.integers(0, 25), per_file=st.integers(1, 30), world=st.integers(1, 5))
def test_processes_deal_out_whole_files_and_miss_nothing(there: int, per_file: int, world: int) -> None:
    shards = [Shard(Path("x"), KEYS[:there], 0, HEADER)]
    missing = missing_rows(np.concatenate([KEYS, KEYS[:3]]), shards)
    shares = [share_of(missing, per_file, rank, world).tolist() for rank in range(world)]
    assert sorted(number for share in shares for number in share) == list(range(there, 25))
    files = [list(range(there, 25))[i : i + per_file] for i in range(0, 25 - there, per_file)]
    for rank, share in enumerate(shares):
        assert share == [number for file in files[rank::world] for number in file]


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
    with refuses(victim.name, reason, at="distill.images.shards.refuse_damaged", fix="dhox cache --repair"):
        open_rows(folder, KEYS)
    assert reason in repair(folder)[victim.name]
    assert examine(folder, checksums=True)[1] == {}
    missing = missing_rows(KEYS, read_shards(folder, checksums=True))
    assert len(missing) == n_lost
    write_rows(folder, KEYS[missing], [ROWS[missing]], 10, lambda n: None)
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
    assert missing_rows(KEYS, read_shards(folder, checksums=True)).tolist() == [*range(10, 25)]


def test_keys_depend_on_name_and_content() -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    keys = row_keys(["a", "b", "a"], [digest, digest, "other"])
    assert len({key.tobytes() for key in keys}) == 3
    assert keys[1:2].tobytes() == hashlib.blake2b(f"b\0{digest}".encode(), digest_size=16).digest()


def test_a_key_may_end_in_zeros(tmp_path: Path) -> None:
    keys = np.array([b"k" * 16, b"k" * 15 + b"\0", b"k" * 14 + b"\0\0", bytes(16)], KEY)
    prepare(tmp_path / "s", RECIPE, (2, 3), "float16")
    write_rows(tmp_path / "s", keys, [ROWS[:4]], 3, lambda n: None)
    assert (open_rows(tmp_path / "s", keys).take(np.arange(4), np.empty((4, 2, 3), np.float16)) == ROWS[:4]).all()
    assert missing_rows(np.array([b"k" * 13], KEY), read_shards(tmp_path / "s", checksums=True)).tolist() == [0]


CHILD = """
import os, resource, sys
from pathlib import Path
import numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from dhox.distill.images.shards import MOST_MAPS, missing_rows, open_rows, read_shards, row_keys
folder, n = Path(sys.argv[1]), int(sys.argv[2])
keys = row_keys(map(str, range(n)), ["content"] * n)
before = len(os.listdir("/proc/self/fd"))
rows = open_rows(folder, keys)
found = rows.take(np.arange(n), np.empty((n, 2, 3), np.float16))
assert (found[:, 0, 0] == np.arange(n) % 1000).all()
assert (rows.take_part(np.arange(n), np.arange(n) % 2)[:, 0] == np.arange(n) % 1000).all()
assert len(os.listdir("/proc/self/fd")) == before, os.listdir("/proc/self/fd")
maps = [line for line in open("/proc/self/maps") if str(folder) in line]
assert len(maps) == min(n, MOST_MAPS), len(maps)
small = open_rows(folder, keys[:3])
assert small.take(np.arange(3), np.empty((3, 2, 3), np.float16))[2, 0, 0] == 2
assert len([line for line in open("/proc/self/maps") if str(folder) in line]) == len(maps) + 3
"""


def many_files(folder: Path, n: int) -> None:
    """A directory of n files of one row each."""
    prepare(folder, RECIPE, (2, 3), "float16")
    rows = np.broadcast_to((np.arange(n) % 1000).astype(np.float16)[:, None, None], (n, 2, 3))
    write_rows(folder, row_keys(map(str, range(n)), ["content"] * n), [rows], 1, lambda n: None)
    list_files(folder)


@pytest.mark.parametrize("n", [600, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_folder_may_hold_more_files_than_a_process_may_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # many of them take a disk its time
    many_files(tmp_path / "s", n)
    command = [sys.executable, "-c", CHILD, str(tmp_path / "s"), str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_maps_are_bounded_and_threads_share_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dhox.distill.images.shards.MOST_MAPS", 4)
    many_files(tmp_path / "s", 30)
    rows = open_rows(tmp_path / "s", row_keys(map(str, range(30)), ["content"] * 30))

    def take(seed: int) -> bool:
        numbers = np.random.default_rng(seed).integers(0, 30, 200)
        return bool((rows.take(numbers, np.empty((200, 2, 3), np.float16))[:, 1, 2] == numbers).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(take, range(40)))
    assert sum(str(tmp_path / "s") in line for line in Path("/proc/self/maps").read_text().splitlines()) <= 4


def test_checksums_are_compared_of_the_files_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path)
    victim = next(shard.path for shard in read_shards(folder, checksums=True) if shard.keys[0] == KEYS[10])
    victim.write_bytes(victim.read_bytes()[:-1] + b"\xff")
    assert len(open_rows(folder, KEYS[:10])) == 10
    with refuses(victim.name, "checksum", at="distill.images.shards.refuse_damaged"):
        open_rows(folder, KEYS[9:11])
    two = [shard for shard in read_shards(folder, checksums=False) if len(shard.keys) == 10]
    size = sum(shard.path.stat().st_size for shard in two)
    monkeypatch.setattr("dhox.distill.images.shards.CHECKSUMS_UP_TO", size)
    with refuses(victim.name, "checksum", at="distill.images.shards.refuse_damaged"):
        open_rows(folder, KEYS[9:11])
    monkeypatch.setattr("dhox.distill.images.shards.CHECKSUMS_UP_TO", size - 1)
    assert len(open_rows(folder, KEYS[9:11])) == 2
    victim.write_bytes(victim.read_bytes()[:-1])
    with refuses(victim.name, "truncated", at="distill.images.shards.refuse_damaged"):
        open_rows(folder, KEYS[:10])


def test_a_file_that_goes_after_it_was_opened_is_an_error(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    rows = open_rows(folder, KEYS)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with refuses("No such file", at="distill.images.shards.map_rows", fix="again"):
        rows.take(np.arange(1), np.empty((1, 2, 3), np.float16))


def test_files_are_bounded() -> None:
    assert rows_per_file((8, 1024), "float16") == 1024
    assert rows_per_file((366, 366, 3), "uint8") == 166
    assert rows_per_file((10_000, 10_000, 3), "uint8") == 1
