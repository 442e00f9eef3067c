"""Faults planted in caches: a training refuses each, and `dhox cache --repair` is the way out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from quick_distill import DEMO_TEACHER

from dhox.cli.main import main
from dhox.distill.images.shards import list_files, open_rows, prepare, repair, row_keys, write_rows
from dhox.errors import DhoxError

KEYS = row_keys(map(str, range(6)), ["content"] * 6)


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main([*arguments])
    return int(end.value.code or 0)


def fill(data: Path, root: str, *options: str) -> int:
    return command("cache", str(data), "--cache", root, "--teacher", DEMO_TEACHER, "--views", "2",
                   "--packed-size", "28", "--device", "cpu", *options)  # fmt: skip


def cache_of(folder: Path, seed: int, value: float) -> Path:
    """A directory of six rows."""
    prepare(folder, {"rows": "teacher embeddings", "seed": seed}, (2, 3), "float16", {"teacher": "T"})
    write_rows(folder, KEYS, [np.full((6, 2, 3), value, np.float16)], 3, lambda n: None)
    list_files(folder)
    return folder


def values(folder: Path) -> set[float]:
    return set(open_rows(folder, KEYS).take(np.arange(6), np.empty((6, 2, 3), np.float16)).ravel().tolist())


def test_files_of_another_teacher_are_refused_and_dropped(tmp_path: Path) -> None:
    mine, other = cache_of(tmp_path / "a", 0, 1.0), cache_of(tmp_path / "b", 1, 2.0)
    for path in other.glob("*.safetensors"):
        shutil.copy(path, mine / path.name)  # the same keys: the same names
    with pytest.raises(DhoxError, match="seed is 1 there and 0 here.*dhox cache --repair"):
        open_rows(mine, KEYS)
    assert len(repair(mine)) == 2
    cache_of(mine, 0, 1.0)
    assert values(mine) == {1.0}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("{}"),
        lambda path: path.write_bytes(b"\0" * 100),
        lambda path: path.write_text(path.read_text().replace("dhox.shards/1", "dhox.shards/9")),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_header_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    folder = cache_of(tmp_path / "a", 0, 1.0)
    before = (folder / "shards.json").read_bytes()
    (folder / "student.safetensors").write_bytes(b"not of a cache")
    damage(folder / "shards.json")
    with pytest.raises(DhoxError, match=f"shards.json.*dhox cache --repair {folder}"):
        open_rows(folder, KEYS)
    assert command("cache", "--verify", str(tmp_path)) == 1
    assert "shards.json" in capsys.readouterr().out
    assert command("cache", "--repair", str(folder)) == 0
    assert (folder / "shards.json").read_bytes() == before
    assert values(folder) == {1.0}
    assert (folder / "student.safetensors").exists()


def test_a_damaged_header_takes_what_most_rows_are(tmp_path: Path) -> None:
    mine, other = cache_of(tmp_path / "a", 0, 1.0), cache_of(tmp_path / "b", 1, 2.0)
    stray = sorted(other.glob("*.safetensors"))[0]
    shutil.copy(stray, mine / ("0" * 24 + ".safetensors"))
    (mine / "shards.json").write_text("{")
    assert list(repair(mine)) == ["0" * 24 + ".safetensors"]
    assert values(mine) == {1.0}


def test_with_no_readable_file_the_directory_goes(tmp_path: Path) -> None:
    folder = cache_of(tmp_path / "a", 0, 1.0)
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DhoxError, match="Delete the directory"):
        repair(folder)


def test_the_next_training_takes_a_repaired_cache(line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill(line / "data", "c") == 0
    header = next(Path("c").glob("*2views/shards.json"))
    header.write_text("{")
    assert fill(line / "data", "c") == 1
    assert f"dhox cache --repair {header.parent}" in capsys.readouterr().err.replace("\n", "")
    assert command("cache", "--repair", str(header.parent)) == 0
    assert fill(line / "data", "c") == 0
