"""A finished run directory, opened: its files read and held against one another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dhox.artefacts.arrays import read_arrays
from dhox.artefacts.logits import TEST_FILE, VAL_FILE, Logits
from dhox.artefacts.metrics import METRICS_FILE, Metrics, read_metrics
from dhox.artefacts.record import AGAIN, read_record
from dhox.artefacts.run import Run, read_run
from dhox.artefacts.selection import SELECTION_FILE, Selection
from dhox.errors import DhoxError


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
    def metrics(self) -> Metrics | None:
        """metrics.csv; None where dhox did not train. Raises DhoxError for a damaged file."""
        path = self.path / METRICS_FILE
        return read_metrics(path) if path.exists() else None


def open_run(path: Path) -> RunDirectory:
    """Read a finished run directory. Raises DhoxError for anything else, and where its files do not belong together."""
    run = read_run(path)
    selection = read_record(path / SELECTION_FILE, Selection)
    n, where = run.sets.n_validation, path / SELECTION_FILE
    if selection.n_validation != n:
        raise DhoxError(
            f"{where}: n_validation is {selection.n_validation}, and the run has {n} validation images.", AGAIN
        )
    validation = read_arrays(path / VAL_FILE, Logits, C=len(run.classes), N=n)
    if validation.names.tolist() != run.sets.validation:
        raise DhoxError(f"{path / VAL_FILE}: the names are not those of the run's validation images.", AGAIN)
    return RunDirectory(path, run, selection, validation)
