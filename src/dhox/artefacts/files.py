"""Files between the stages: JSON with a schema, hashes, and writes that leave the old state or the new."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import BinaryIO

import msgspec

from dhox.errors import DhoxError
from dhox.system.regular_file import regular

RUN_SCHEMA = "dhox.run/1"
EXPORT_SCHEMA = "dhox.export/3"
BENCH_SCHEMA = "dhox.bench/3"
COMPARISON_SCHEMA = "dhox.comparison/1"
AUDIT_SCHEMA = "dhox.audit/1"
SWEEP_SCHEMA = "dhox.sweep/2"
DRIFT_SCHEMA = "dhox.drift/1"

# The JSON file that says what a directory is.
RUN_FILE, EXPORT_FILE, BENCH_FILE = "run.json", "manifest.json", "bench.json"
COMPARISON_FILE, AUDIT_FILE, SWEEP_FILE, DRIFT_FILE = "comparison.json", "audit.json", "sweep.json", "drift.json"
BETTER_CLASSES = "classes.txt"  # of an audit: the class list with the prompt names that it recommends

# What a board can survive; of an .npz, by how much it may grow when it is read (large arrays are not compressed).
LARGEST_JSON, LARGEST_NPZ = 2**28, 2**31


CHECKPOINT = "checkpoint"  # a folder that a user error does not remove: training goes on from it
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # what a kill in `write_files` leaves: nothing that anyone reads


def write_files(contents: Mapping[Path, bytes | Callable[[BinaryIO], None]]) -> None:
    """Write whole files atomically: temporary files beside them, fsync, rename once all of them are written.

    `contents`: bytes, or what writes them into the open file. A full disk leaves every old file; a kill between two
    renames may leave the last ones old.
    """
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, temporary in temporaries.items():
            with temporary.open("wb") as file:
                content = contents[path]
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(file)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            temporary.replace(path)
    except (OSError, KeyboardInterrupt) as err:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):  # none is there, or on a disk that is read-only
                temporary.unlink()
        if isinstance(err, KeyboardInterrupt):
            raise
        raise DhoxError(
            f"Could not write {path}: {err.strerror}.", "Free space there, or write to another disk."
        ) from err


def write_bytes(path: Path, content: bytes) -> None:
    """Write one whole file atomically."""
    write_files({path: content})


def append_bytes(path: Path, content: bytes) -> None:
    """Append to a file in one piece where the disk allows it, so that several processes may append to it."""
    try:
        with path.open("ab", buffering=0) as file:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
    except OSError as err:
        raise DhoxError(
            f"Could not write {path}: {err.strerror}.", "Free space there, or write to another disk."
        ) from err


def mark_running(path: Path, schema: str) -> None:
    """The JSON file of a directory whose stage has begun."""
    write_bytes(path, msgspec.json.encode({"schema": schema, "status": "running"}))


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with regular(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_hash(path: Path, expected: str, described_by: str, *, lost: str, changed: str) -> Path:
    """The same path, once its SHA-256 is the one that a sibling file names. Raises DhoxError, which ends with `lost`
    where it is missing and with `changed` where it is another file."""
    if not path.is_file():
        raise DhoxError(f"{path} is missing, though {described_by} names it.", lost)
    if sha256(path) != expected:
        raise DhoxError(f"{path} is not the file that {described_by} describes (its SHA-256 differs).", changed)
    return path


def free_bytes(place: Path) -> int:
    """Free space of the disk that holds a directory, or its nearest parent that exists."""
    place = place.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def make_folder(folder: Path, fix: str, mode: int = 0o777) -> None:
    """Create a folder and those above it. Raises DhoxError, which ends with `fix`, where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as err:
        raise DhoxError(f"Could not create {folder}: {err.strerror}.", fix) from err


def user_cache(name: str) -> Path:
    """$XDG_CACHE_HOME/dhox/NAME, by default below ~/.cache: what this user can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dhox" / name


def stable_hash(text: str) -> int:
    """A 64-bit hash of a text that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """What every JSON file of dhox says first: its kind and major version, and whether it is complete."""

    schema: str = ""
    status: str = ""
    finished_at: str = ""


def head_of(path: Path, schema: str) -> Head | None:
    """The head of a JSON file of this schema; None for any other, and for what cannot be read."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            return None
        head = msgspec.json.decode(regular(path).read_bytes(), type=Head)
    except (OSError, ValueError, RecursionError):
        return None
    return head if head.schema == schema else None


def newest(root: Path, file_name: str, schema: str) -> Path | None:
    """The directory below `root` whose complete `file_name` has the greatest `finished_at`, or None."""
    found = []
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if file_name not in names:
            continue
        head = head_of(Path(place, file_name), schema)
        if head is not None and head.status == "complete":
            found.append((head.finished_at, Path(place)))
    return max(found)[1] if found else None


def holds(directory: Path, file_name: str, schema: str) -> bool:
    """Whether a directory is one that dhox wrote for this schema."""
    return head_of(directory / file_name, schema) is not None


def free_name(place: Path) -> Path:
    """PLACE, or PLACE-2, PLACE-3 ...: the first that is not there and that no other command writes."""
    names = (place if number == 1 else place.with_name(f"{place.name}-{number}") for number in count(1))
    return next(name for name in names if not name.exists() and not partial_directory(name).exists())


def partial_directory(final: Path) -> Path:
    """Where a stage works before its output is complete."""
    final = final.resolve()
    return final.with_name(f"{final.name}.partial")


def replaced_directory(final: Path) -> Path:
    """Where a finished output waits while the new one takes its place."""
    final = final.resolve()
    return final.with_name(f".{final.name}.replaced")


def settle(final: Path, file_name: str, schema: str) -> None:
    """Finish the last steps of `output_directory` where a kill fell between them: the new output is put in place, or,
    where that is not complete, the old one is put back."""
    if final.exists():
        return
    partial, replaced = partial_directory(final), replaced_directory(final)
    head = head_of(partial / file_name, schema)
    if head is not None and head.status == "complete":
        shutil.rmtree(partial / CHECKPOINT, ignore_errors=True)
        partial.rename(final)
    elif partial.exists() and holds(replaced, file_name, schema):  # else a kill left parts of it
        replaced.rename(final)


def settle_any(final: Path) -> None:
    """`settle` for what may be a run, an export or a bench."""
    for file_name, schema in ((RUN_FILE, RUN_SCHEMA), (EXPORT_FILE, EXPORT_SCHEMA), (BENCH_FILE, BENCH_SCHEMA)):
        settle(final, file_name, schema)


def check_output(final: Path, file_name: str, schema: str, overwrite: bool) -> None:
    """Refuse an output directory that is not empty, unless it holds the same schema and `overwrite` is set, and one
    that cannot be made."""
    check_place(final)
    settle(final, file_name, schema)
    if not final.exists():
        return
    if final.is_dir() and all(path.is_file() and TEMPORARY.fullmatch(path.name) for path in final.iterdir()):
        return
    if not holds(final, file_name, schema):
        raise DhoxError(
            f"{final} exists and was not written by this command (no {file_name} of it), so it is never overwritten.",
            "Choose another --out.",
        )
    if not overwrite:
        raise DhoxError(f"{final} is not empty.", "Add --overwrite to replace it, or choose another --out.")


def check_place(folder: Path) -> None:
    """Raise DhoxError where this user cannot make a folder, or write beside it: before hours of work, not after."""
    above = folder.absolute().parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise DhoxError(f"Could not create {folder}: {above} is no folder.", "Choose another --out.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise DhoxError(f"Could not create {folder}: {above} cannot be written.", "Choose another --out.")


@contextlib.contextmanager
def output_directory(final: Path, file_name: str, schema: str, overwrite: bool, resume: bool = False) -> Iterator[Path]:
    """Work in `FINAL.partial` and rename it to `FINAL` when the block ends without an error.

    An existing FINAL (see `check_output`) stays untouched until then. A user error and Ctrl-C remove the partial
    directory, unless it holds a checkpoint or results; after a kill or a bug it remains, marked `status: running`, and
    the next run of the same command replaces it, or continues in it where `resume` is set. Raises DhoxError where
    another process works there.
    """
    final = final.resolve()
    check_output(final, file_name, schema, overwrite)
    partial, replaced = partial_directory(final), replaced_directory(final)
    with removed_if_empty(partial), own_directory(partial):
        check_output(partial, file_name, schema, overwrite=True)
        shutil.rmtree(replaced, ignore_errors=True)
        try:
            if not resume:
                empty(partial)
            if not holds(partial, file_name, schema):
                mark_running(partial / file_name, schema)
            yield partial
        except (DhoxError, OSError, KeyboardInterrupt) as err:
            full = isinstance(err, OSError) and err.errno in {errno.ENOSPC, errno.EDQUOT}
            if isinstance(err, OSError) and not full:
                raise
            head = head_of(partial / file_name, schema)  # with results it has a `finished_at`
            if not (partial / CHECKPOINT).exists() and not (head and head.finished_at):
                shutil.rmtree(partial)
            if full:
                raise DhoxError(
                    f"The disk of temporary files is full ({err}).", "Free space, or set TMPDIR to a folder elsewhere."
                ) from err
            raise
        if final.exists():
            final.rename(replaced)
        partial.rename(final)
        shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Ctrl-C leaves no directory that was just made and holds nothing yet."""
    try:
        yield
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


@contextlib.contextmanager
def own_directory(folder: Path) -> Iterator[None]:
    """Create a directory and hold it, so that no other process of dhox works in it; a killed one holds nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as err:
        raise DhoxError(f"Could not create {folder}: {err.strerror}.", "Choose another --out.") from err
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(descriptor), folder.stat())  # not one that was just finished and renamed
        except OSError:
            mine = False
        if not mine:
            raise DhoxError(
                f"Another dhox writes {folder} now.", "Wait until it has finished, or choose another --out."
            )
        yield
    finally:
        os.close(descriptor)


def empty(folder: Path) -> None:
    """Remove what is in a directory, but not itself."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
