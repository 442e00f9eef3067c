"""Epoch metrics to files."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from dhox.artefacts.files import write_bytes


class Curves:
    """Epoch metrics to metrics.csv (whole after every epoch) and to TensorBoard; nothing where `run` is None."""

    def __init__(self, run: Path | None) -> None:
        self.run, self.text = run, io.StringIO()
        if run is not None:
            shutil.rmtree(run / "tensorboard", ignore_errors=True)  # a resumed training adds its earlier epochs again
            self.board = SummaryWriter(str(run / "tensorboard"))

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append one epoch."""
        if self.run is None:
            return
        writer = csv.DictWriter(self.text, ["epoch", *metrics], lineterminator="\n")
        if not self.text.getvalue():
            writer.writeheader()
        writer.writerow({"epoch": epoch} | {name: f"{value:.6g}" for name, value in metrics.items()})
        write_bytes(self.run / "metrics.csv", self.text.getvalue().encode())
        for name, value in metrics.items():
            self.board.add_scalar(name, value, epoch)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self.run is not None:
            self.board.close()
