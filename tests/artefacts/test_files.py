from __future__ import annotations

import contextlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_files import read_json, write_json, write_npz
from refusals import refuses

from dhox.artefacts.arrays import STORED_FROM, read_npz
from dhox.artefacts.arrays import write_npz as write_as_dhox_does
from dhox.artefacts.files import (
    CHECKPOINT,
    RUN_FILE,
    RUN_SCHEMA,
    append_bytes,
    head_of,
    newest,
    output_directory,
    partial_directory,
    settle,
    stable_hash,
    write_bytes,
)
from dhox.artefacts.record import Kind, read_record, write_record
from dhox.errors import DhoxError


def finished(folder: Path, at: str, **content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN_FILE, {"schema": RUN_SCHEMA, "status": "complete", "finished_at": at, **content})
    return folder


CHECKED = "artefacts.files.check_output"


class Note(Kind, kw_only=True):
    x: str | float = ""
    schema: str = "dhox.note/1"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_record(path, Note(x="é"))
    with pytest.raises(ValueError, match="Out of range"):
        write_record(path, Note(x=float("nan")))
    assert read_record(path, Note).x == "é"
    path.write_text("{")
    with refuses("a.json", at="artefacts.record.decode"):
        read_record(path, Note)


def test_npz_is_deterministic_and_never_a_pickle(tmp_path: Path) -> None:
    arrays = {"a": np.arange(5), "names": np.array(["x", "yz"])}
    for name in ("1.npz", "2.npz"):
        write_as_dhox_does(tmp_path / name, arrays)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    np.savez_compressed(tmp_path / "2.npz", **arrays)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    assert read_npz(tmp_path / "1.npz")["names"].tolist() == ["x", "yz"]
    with pytest.raises(AssertionError, match="pickle"):
        write_as_dhox_does(tmp_path / "3.npz", {"evil": np.array([{"a": 1}], dtype=object)})
    np.savez(tmp_path / "3.npz", evil=np.array([{"a": 1}], dtype=object))
    with refuses("3.npz", "evil.npy", at="artefacts.arrays._read_member"):
        read_npz(tmp_path / "3.npz")
    (tmp_path / "4.npz").write_bytes((tmp_path / "1.npz").read_bytes()[:40])
    with refuses("4.npz", "zip", at="artefacts.arrays.read_npz"):
        read_npz(tmp_path / "4.npz")


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with refuses("folder", "Is a directory", at="artefacts.files.write_files"):
        write_bytes(tmp_path / "folder", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_stable_hash_does_not_depend_on_the_process() -> None:
    assert stable_hash("train/cat/1.png") == 4190777528381747787


def test_output_directory_appears_only_when_complete(tmp_path: Path) -> None:
    final = tmp_path / "runs/a"
    with output_directory(final, RUN_FILE, RUN_SCHEMA, overwrite=False) as folder:
        assert not final.exists()
        assert json.loads((folder / RUN_FILE).read_text())["status"] == "running"
        finished(folder, "1")
    assert final.is_dir()
    assert not partial_directory(final).exists()


def test_overwrite_keeps_the_old_directory_until_the_new_one_is_complete(tmp_path: Path) -> None:
    final = finished(tmp_path / "a", "1", kept=True)
    with refuses("a", at=CHECKED, fix="--overwrite"), output_directory(final, RUN_FILE, RUN_SCHEMA, False):
        pass
    with pytest.raises(DhoxError, match="mid-way"), output_directory(final, RUN_FILE, RUN_SCHEMA, True):
        raise DhoxError("mid-way", "")
    assert read_json(final / RUN_FILE)["kept"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with output_directory(final, RUN_FILE, RUN_SCHEMA, True) as folder:
        finished(folder, "2")
    assert read_json(final / RUN_FILE)["finished_at"] == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["a", "a.partial"])
def test_foreign_directories_are_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious.txt").write_text("mine")
    with refuses(name, RUN_FILE, at=CHECKED), output_directory(tmp_path / "a", RUN_FILE, RUN_SCHEMA, True):
        pass
    assert (tmp_path / name / "precious.txt").read_text() == "mine"


def test_a_killed_command_leaves_a_running_partial_that_the_next_one_replaces(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), output_directory(tmp_path / "a", RUN_FILE, RUN_SCHEMA, False) as folder:
        raise ZeroDivisionError
    assert json.loads((folder / RUN_FILE).read_text())["status"] == "running"
    with output_directory(tmp_path / "a", RUN_FILE, RUN_SCHEMA, False) as folder:
        finished(folder, "1")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kept", [(), ("checkpoint",), ("results",)])
def test_ctrl_c_leaves_nothing_but_checkpoints_and_results(tmp_path: Path, kept: tuple[str, ...]) -> None:
    def interrupted() -> None:
        with output_directory(tmp_path / "a", RUN_FILE, RUN_SCHEMA, False) as folder:
            for name in kept:
                (folder / name).mkdir()
            if "results" in kept:
                finished(folder, "1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial"] * len(kept)


def test_ctrl_c_while_a_file_is_written_leaves_the_old_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.json").write_bytes(b"old")
    monkeypatch.setattr("os.fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a.json", b"new")
    with pytest.raises(KeyboardInterrupt), output_directory(tmp_path / "a", RUN_FILE, RUN_SCHEMA, False):
        pass
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_kill_between_the_last_renames_is_finished_by_the_next_reader(tmp_path: Path) -> None:
    finished(tmp_path / "a.partial", "2", new=True)
    finished(tmp_path / ".a.replaced", "1")
    settle(tmp_path / "a", RUN_FILE, RUN_SCHEMA)
    assert read_json(tmp_path / "a" / RUN_FILE)["new"]
    write_json(finished(tmp_path / "b.partial", "3") / RUN_FILE, {"schema": RUN_SCHEMA, "status": "running"})
    settle(tmp_path / "b", RUN_FILE, RUN_SCHEMA)
    assert not (tmp_path / "b").exists()


def test_newest_is_the_greatest_finished_at_of_complete_ones(tmp_path: Path) -> None:
    assert newest(tmp_path, RUN_FILE, RUN_SCHEMA) is None
    finished(tmp_path / "x/old", "2026-01-01")
    new = finished(tmp_path / "new", "2026-02-01")
    write_json(
        finished(tmp_path / "running", "") / RUN_FILE, {"schema": RUN_SCHEMA, "status": "running", "finished_at": "9"}
    )
    write_json(
        finished(tmp_path / "other", "") / RUN_FILE,
        {"schema": "dhox.bench/1", "status": "complete", "finished_at": "9"},
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / RUN_FILE).write_text("[")
    assert newest(tmp_path, RUN_FILE, RUN_SCHEMA) == new


def bomb(path: Path, size: int) -> None:
    """An .npz of a few kB that expands to `size` bytes of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (size - 128,)})
        for start in range(128, size, 1 << 16):
            member.write(b"\0" * min(1 << 16, size - start))


def test_an_npz_is_not_expanded_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "golden.npz"
    bomb(path, 1 << 22)
    assert path.stat().st_size < 10_000
    most = (1 << 22) - path.stat().st_size
    monkeypatch.setattr("dhox.artefacts.arrays.LARGEST_NPZ", most)
    assert read_npz(path)["a"].shape == ((1 << 22) - 128,)
    monkeypatch.setattr("dhox.artefacts.arrays.LARGEST_NPZ", most - 1)
    with refuses("golden.npz", "4,194,304", "4,194,303", at="artefacts.arrays.read_npz"):
        read_npz(path)


def test_what_dhox_writes_it_also_reads_however_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits beyond the limit, of zeros, which shrink most: they are not compressed, so that they are no bomb."""
    path, n = tmp_path / "val.npz", STORED_FROM // 4
    arrays = {
        "large": np.zeros((n // 8, 8), np.float32), "small": np.zeros(n - 1, np.float32),
        "turned": np.arange(2 * n, dtype=np.float32).reshape(2, n).T, "names": np.array(["a", "b"]),
    }  # fmt: skip
    write_as_dhox_does(path, arrays)
    with zipfile.ZipFile(path) as members:
        stored = {member.filename for member in members.infolist() if member.compress_type == zipfile.ZIP_STORED}
    assert stored == {"large.npy", "turned.npy"}
    monkeypatch.setattr("dhox.artefacts.arrays.LARGEST_NPZ", STORED_FROM)
    again = read_npz(path)
    assert sum(array.nbytes for array in again.values()) > 3 * STORED_FROM
    assert all((again[name] == array).all() for name, array in arrays.items())
    bomb(path, 2 * STORED_FROM)
    with refuses("val.npz", at="artefacts.arrays.read_npz"):
        read_npz(path)


def test_an_npz_that_memory_cannot_hold_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npz(tmp_path / "val.npz", a=np.arange(5))

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("numpy.lib.format.read_array", full)
    with refuses("val.npz", "168", at="artefacts.arrays", fix="machine"):
        read_npz(tmp_path / "val.npz")


def test_appending_is_whole_or_one_message(tmp_path: Path) -> None:
    append_bytes(tmp_path / "x", b"a\n")
    append_bytes(tmp_path / "x", b"b\n" * 100_000)
    assert (tmp_path / "x").read_bytes() == b"a\n" + b"b\n" * 100_000
    with refuses("gone/x", at="artefacts.files.append_bytes"):
        append_bytes(tmp_path / "gone/x", b"")


def test_an_npz_that_lies_about_its_size_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    bomb(path, 1 << 12)
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (100).to_bytes(4, "little")  # the size that the directory states
    path.write_bytes(content)
    with refuses("golden.npz", "CRC-32", "a.npy", at="artefacts.arrays._read_member"):
        read_npz(path)
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    with refuses("golden.npz", "a.npy", at="artefacts.arrays._read_member"):
        read_npz(path)


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_npz_is_damaged_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    write_npz(path, a=np.arange(5), names=np.array(["x", "yz"]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(DhoxError):
        read_npz(path)


def test_json_is_bounded_in_size_and_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.json"
    write_record(path, Note(x="x" * 1000))
    for size, readable in ((path.stat().st_size, True), (path.stat().st_size - 1, False)):
        monkeypatch.setattr("dhox.artefacts.record.LARGEST_JSON", size)
        monkeypatch.setattr("dhox.artefacts.files.LARGEST_JSON", size)
        assert (head_of(path, "dhox.note/1") is not None) == readable
        if readable:
            assert read_record(path, Note).x
        else:
            with refuses("note.json", f"{size:,}", at="artefacts.record.read_text"):
                read_record(path, Note)
    monkeypatch.undo()
    path.write_text("[" * 100_000)
    with refuses("note.json", at="artefacts.record.decode"):
        read_record(path, Note)


def test_a_finished_training_that_was_stopped_before_its_checkpoint_was_removed_keeps_none(tmp_path: Path) -> None:
    (finished(tmp_path / "a.partial", "1") / CHECKPOINT).mkdir()
    settle(tmp_path / "a", RUN_FILE, RUN_SCHEMA)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [RUN_FILE]


def test_an_old_output_comes_back_where_the_new_one_was_stopped_and_is_not_complete(tmp_path: Path) -> None:
    finished(tmp_path / ".a.replaced", "1")
    settle(tmp_path / "a", RUN_FILE, RUN_SCHEMA)
    assert not (tmp_path / "a").exists()  # removed by its owner; a kill left the older one
    write_json(finished(tmp_path / "a.partial", "2") / RUN_FILE, {"schema": RUN_SCHEMA, "status": "interrupted"})
    settle(tmp_path / "a", RUN_FILE, RUN_SCHEMA)
    assert read_json(tmp_path / "a" / RUN_FILE)["finished_at"] == "1"
    finished(tmp_path / ".a.replaced", "0")
    with output_directory(tmp_path / "a", RUN_FILE, RUN_SCHEMA, overwrite=True):
        assert not (tmp_path / ".a.replaced").exists()


def test_two_commands_never_write_to_one_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with output_directory(out, "run.json", "dhox.run/1", overwrite=False) as folder:
        (folder / "mine").write_text("1")
        taken = refuses("out.partial", at="artefacts.files.own_directory", fix="--out")
        with taken, output_directory(out, "run.json", "dhox.run/1", overwrite=True):
            pass
        assert (folder / "mine").exists()
        write_json(folder / "run.json", {"schema": "dhox.run/1", "status": "complete"})
    assert (out / "mine").exists()
    with output_directory(out, "run.json", "dhox.run/1", overwrite=True) as folder:  # nobody holds it any more
        assert not (folder / "mine").exists()


@pytest.mark.parametrize("results", [{}, {"finished_at": "2026"}])
def test_an_error_after_results_keeps_them(tmp_path: Path, results: dict[str, str]) -> None:
    def fail() -> None:
        with output_directory(tmp_path / "out", "bench.json", "dhox.bench/2", overwrite=False) as folder:
            write_json(folder / "bench.json", {"schema": "dhox.bench/2", "status": "running", **results})
            raise DhoxError("full", "")

    with pytest.raises(DhoxError, match="full"):
        fail()
    assert (tmp_path / "out.partial").exists() == bool(results)
    assert not (tmp_path / "out").exists()
