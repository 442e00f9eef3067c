"""A finished run directory, opened: its files read and held against one another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from dhox.artefacts.arrays import read_arrays
from dhox.artefacts.files import RUN_FILE, check_hash, sha256
from dhox.artefacts.images import IMAGES_FILE, ImageHashes
from dhox.artefacts.logits import TEST_FILE, VAL_FILE, Logits
from dhox.artefacts.metrics import METRICS_FILE, Metrics, read_metrics
from dhox.artefacts.record import AGAIN, read_record, write_record
from dhox.artefacts.run import Run, read_run
from dhox.artefacts.selection import SELECTION_FILE, Selection
from dhox.errors import DhoxError

WEIGHTS_FILE = "student.safetensors"
RETUNE = "Choose again with dhox retune RUN."
SPLITS_FILE = "splits.csv"  # DATA with the splits that were drawn from it
HASHED = (WEIGHTS_FILE, VAL_FILE, TEST_FILE, IMAGES_FILE, SELECTION_FILE, SPLITS_FILE)


@dataclass(frozen=True)
class RunDirectory:
    """A finished run, its alpha and beta, and its validation logits."""

    path: Path
    run: Run
    selection: Selection
    validation: Logits

    @cached_property
    def test(self) -> Logits | None:
        """The logits of the test images; None where the run had none. Raises DhoxError for a damaged file."""
        if not self.run.sets.n_test:
            return None
        return read_arrays(self.path / TEST_FILE, Logits, C=len(self.run.classes), N=self.run.sets.n_test)

    @cached_property
    def images(self) -> ImageHashes:
        """What the validation and test images were. Raises DhoxError for a damaged file."""
        return read_arrays(self.path / IMAGES_FILE, ImageHashes)

    @cached_property
    def metrics(self) -> Metrics | None:
        """metrics.csv; None where dhox did not train. Raises DhoxError for a damaged file."""
        path = self.path / METRICS_FILE
        return read_metrics(path) if path.exists() else None


def write_run_file(path: Path, run: Run) -> Run:
    """Write run.json with the hashes of the files that lie beside it: the last file of a run. What it holds."""
    run = msgspec.structs.replace(run, files=hashes(path))
    write_record(path / RUN_FILE, run)
    return run


def hashes(path: Path) -> dict[str, str]:
    """SHA-256 by name of the files that a run's results stand on."""
    return {name: sha256(path / name) for name in HASHED if (path / name).is_file()}


def check_hashes(path: Path, run: Run, names: tuple[str, ...] = HASHED) -> None:
    """Raise DhoxError where one of these files is not the one that run.json describes."""
    for name in names:
        if name in run.files:
            changed = RETUNE if name == SELECTION_FILE else "Restore it, or train again."
            lost = "Copy the whole run directory."
            check_hash(path / name, run.files[name], RUN_FILE, lost=lost, changed=changed)


def open_run(path: Path, *, choosing_again: bool = False) -> RunDirectory:
    """Read a finished run directory; `choosing_again`: selection.json will be replaced.

    Raises DhoxError for anything else, and where its files do not belong together.
    """
    run = read_run(path)
    selection = read_record(path / SELECTION_FILE, Selection)
    n, where = run.sets.n_validation, path / SELECTION_FILE
    if selection.n_validation != n:
        raise DhoxError(
            f"{where}: n_validation is {selection.n_validation}, and the run has {n} validation images.", AGAIN
        )
    if (
        not choosing_again
        and selection.grid is not None
        and not selection.grid.is_best(selection.alpha, selection.beta)
    ):
        raise DhoxError(f"{where}: alpha and beta are not the best point of its own grid.", RETUNE)
    validation = read_arrays(path / VAL_FILE, Logits, C=len(run.classes), N=n)
    if validation.names.tolist() != run.sets.validation:
        raise DhoxError(f"{path / VAL_FILE}: the names are not those of the run's validation images.", AGAIN)
    check_hashes(path, run, tuple(name for name in HASHED if name != SELECTION_FILE or not choosing_again))
    return RunDirectory(path, run, selection, validation)
