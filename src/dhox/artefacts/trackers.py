"""trackers.json: the runs that a training has in MLflow and Weights & Biases."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dhox.artefacts.record import Count, Kind, Name, Record

TRACKERS_FILE = "trackers.json"


class TrackedRun(Record):
    """A training in one of these tools."""

    id: Name
    epochs: Annotated[Count, Meta(description="that were logged there")]


class Trackers(Kind, kw_only=True):
    """Beside a run that was logged there, so that --resume goes on in the same ones."""

    schema: Literal["dhox.trackers/1"] = "dhox.trackers/1"
    status: Literal["complete"] = "complete"
    mlflow: TrackedRun | None = None
    wandb: TrackedRun | None = None
