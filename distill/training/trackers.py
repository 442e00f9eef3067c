"""Where epochs go beside metrics.csv, by the tools' own clients: TensorBoard, MLflow, Weights & Biases.

Where they keep them is said to the tools themselves: MLFLOW_TRACKING_URI, WANDB_MODE and their other variables.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from dhox.errors import DhoxError, first_line, require

if TYPE_CHECKING:
    from dhox.artefacts.run import Settings
    from dhox.artefacts.trackers import TrackedRun

Ended = Literal["finished", "failed", "interrupted"]
PROJECT = "dhox"  # in MLflow (an experiment) and Weights & Biases, where their variables name no other
TO_MLFLOW = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
LONGEST_PARAMETER = 500  # characters that every MLflow server takes


@dataclass(frozen=True)
class Subject:
    """The training that is logged: its directory while it trains, its name, and its settings."""

    run: Path
    name: str
    settings: Settings


def check_clients(names: tuple[str, ...]) -> None:
    """Raise DhoxError where the client of a tool is missing, or has no account to log to; the first process asks."""
    if os.environ.get("RANK", "0") != "0":
        return
    if "mlflow" in names:
        require("mlflow", "mlflow")
    if "wandb" in names:
        wandb = require("wandb", "wandb")
        with told("wandb", "Run `wandb login`, or set WANDB_MODE=offline."):
            wandb.login()


@contextmanager
def told(name: str, fix: str) -> Iterator[None]:
    """Raise DhoxError for whatever a client raises: they have errors of many kinds, and pass on those of networks."""
    try:
        yield
    except Exception as err:
        raise DhoxError(f"--log {name}: {first_line(err)}", fix) from err


class TensorBoard:
    """Event files in RUN/tensorboard, written anew: a resumed training adds its earlier epochs again."""

    name, id = "tensorboard", None

    def __init__(self, subject: Subject) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(subject.run / "tensorboard", ignore_errors=True)
        self.writer = SummaryWriter(str(subject.run / "tensorboard"))
        self.epochs = 0

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """One epoch."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, epoch)

    def close(self, ended: Ended, results: dict[str, float]) -> None:
        """Flush the file. It has no place for results."""
        self.writer.close()


class MLflow:
    """A run of an MLflow experiment; `before`: the one that goes on."""

    name = "mlflow"

    def __init__(self, subject: Subject, before: TrackedRun | None) -> None:
        self.client = require("mlflow", "mlflow").MlflowClient()
        self.epochs = before.epochs if before else 0
        if before is not None:
            self.id = before.id
            self.client.update_run(self.id, status="RUNNING")
            return
        self.id = self.client.create_run(self._experiment(), run_name=subject.name).info.run_id
        for key, value in subject.settings.items():
            self.client.log_param(self.id, key, str(value)[:LONGEST_PARAMETER])

    def _experiment(self) -> str:
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        return found.experiment_id if found else self.client.create_experiment(name)

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """One epoch, in one call."""
        metric = require("mlflow.entities", "mlflow").Metric
        at = int(1000 * time.time())
        self.client.log_batch(self.id, metrics=[metric(name, value, at, epoch) for name, value in metrics.items()])
        self.epochs = epoch

    def close(self, ended: Ended, results: dict[str, float]) -> None:
        """Say how it ended."""
        for name, value in results.items():
            self.client.log_metric(self.id, name, value)
        self.client.set_terminated(self.id, TO_MLFLOW[ended])


class WandB:
    """A run of a Weights & Biases project; `before`: the one that goes on."""

    name = "wandb"

    def __init__(self, subject: Subject, before: TrackedRun | None) -> None:
        wandb = require("wandb", "wandb")
        again = {"id": before.id, "resume": "allow"} if before else {}
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=subject.name, config=subject.settings,
            allow_val_change=True, settings=wandb.Settings(console="off"), **again,
        )  # fmt: skip
        self.run.define_metric("*", step_metric="epoch")
        self.id, self.epochs = self.run.id, before.epochs if before else 0

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """One epoch."""
        self.run.log({"epoch": epoch, **metrics})
        self.epochs = epoch

    def close(self, ended: Ended, results: dict[str, float]) -> None:
        """Say how it ended, and wait until all is sent or on the disk."""
        self.run.summary.update(results)
        self.run.finish(exit_code=0 if ended == "finished" else 1)


Tracker: TypeAlias = TensorBoard | MLflow | WandB
