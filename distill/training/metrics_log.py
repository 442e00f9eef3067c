"""Epoch metrics to files."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from dhox.artefacts.metrics import METRICS_FILE, write_rows


class MetricsLog:
    """Epoch metrics to metrics.csv (whole after every epoch) and to TensorBoard; nothing where `run` is None."""

    def __init__(self, run: Path | None) -> None:
        self.run = run
        self.rows: list[list[int | float]] = []
        if run is not None:
            shutil.rmtree(run / "tensorboard", ignore_errors=True)  # a resumed training adds its earlier epochs again
            self.board = SummaryWriter(str(run / "tensorboard"))

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append one epoch."""
        if self.run is None:
            return
        self.rows.append([epoch, *metrics.values()])
        write_rows(self.run / METRICS_FILE, ["epoch", *metrics], self.rows)
        for name, value in metrics.items():
            self.board.add_scalar(name, value, epoch)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self.run is not None:
            self.board.close()
