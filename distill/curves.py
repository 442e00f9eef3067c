"""Epoch metrics to files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from dhox.files import write_bytes


class Curves:
    """Epoch metrics to metrics.csv (whole after every epoch) and to TensorBoard."""

    def __init__(self, run: Path) -> None:
        self.path, self.board = run / "metrics.csv", SummaryWriter(str(run / "tensorboard"))
        self.text = io.StringIO()

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append one epoch."""
        writer = csv.DictWriter(self.text, ["epoch", *metrics], lineterminator="\n")
        if not self.text.getvalue():
            writer.writeheader()
        writer.writerow({"epoch": epoch} | {name: f"{value:.6g}" for name, value in metrics.items()})
        write_bytes(self.path, self.text.getvalue().encode())
        for name, value in metrics.items():
            self.board.add_scalar(name, value, epoch)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self.board.close()
