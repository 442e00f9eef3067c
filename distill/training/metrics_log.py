"""Epoch metrics to files and to the tools that people watch."""

from __future__ import annotations

from types import TracebackType

from dhox.artefacts.metrics import METRICS_FILE, write_rows
from dhox.artefacts.record import read_record, write_record
from dhox.artefacts.trackers import TRACKERS_FILE, TrackedRun, Trackers
from dhox.console import say
from dhox.distill.training.trackers import Ended, MLflow, Subject, TensorBoard, Tracker, WandB, told
from dhox.errors import DhoxError


class MetricsLog:
    """Epoch metrics to metrics.csv (whole after every epoch) and to the tools of `names`; nothing without a `subject`.

    A context manager: its end tells the tools whether the training finished. A tool that fails meanwhile is left out
    from there on, and that is said. Raises DhoxError where one does not start.
    """

    def __init__(self, subject: Subject | None, names: tuple[str, ...]) -> None:
        self.subject = subject
        self.rows: list[list[int | float]] = []
        self.trackers: list[Tracker] = []
        self.failed: set[str] = set()
        self.results: dict[str, float] = {}
        if subject is None:
            return
        path = subject.run / TRACKERS_FILE
        before = read_record(path, Trackers) if path.exists() else Trackers()
        for name in names:
            with told(name, "Mend it, or leave it out of --log."):
                if name == "tensorboard":
                    self.trackers.append(TensorBoard(subject))
                elif name == "mlflow":
                    self.trackers.append(MLflow(subject, before.mlflow))
                elif name == "wandb":
                    self.trackers.append(WandB(subject, before.wandb))
        self._note()

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append one epoch; a tool that has it from before a --resume does not get it again."""
        if self.subject is None:
            return
        self.rows.append([epoch, *metrics.values()])
        write_rows(self.subject.run / METRICS_FILE, ["epoch", *metrics], self.rows)
        for tracker in self.trackers:
            if epoch > tracker.epochs and tracker.name not in self.failed:
                try:
                    with told(tracker.name, "It gets no more of this training."):
                        tracker.add(epoch, metrics)
                except DhoxError as err:
                    self.failed.add(tracker.name)
                    say(f"Warning: {err}")
        self._note()

    def _note(self) -> None:
        """Write what --resume must know."""
        entries = {one.name: TrackedRun(one.id, one.epochs) for one in self.trackers if one.id is not None}
        if self.subject is not None and entries:
            write_record(
                self.subject.run / TRACKERS_FILE, Trackers(mlflow=entries.get("mlflow"), wandb=entries.get("wandb"))
            )

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended: Ended = "finished" if kind is None else "failed" if issubclass(kind, Exception) else "interrupted"
        for tracker in self.trackers:
            try:
                with told(tracker.name, "It may show this training as running."):
                    tracker.close(ended, self.results)
            except DhoxError as err:
                say(f"Warning: {err}")
