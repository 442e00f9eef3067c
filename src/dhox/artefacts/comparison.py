"""comparison.json: several methods over several seeds on the same test images."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dhox.artefacts.common import Versions
from dhox.artefacts.record import AtLeastOne, Count, Interval, Kind, Name, Record, Share
from dhox.artefacts.run import Method, TestStage


class MeanInterval(Record):
    """A mean over seeds."""

    mean: float
    interval: Annotated[Interval | None, Meta(description="95 %, Student's t; null with one seed")]


class ComparisonRow(MeanInterval):
    """The test accuracy of one method at one stage."""

    method: Method | Literal["teacher"]
    stage: TestStage
    accuracies: Annotated[list[Share], Meta(min_length=1, description="one per seed")]
    minus_dho: Annotated[MeanInterval | None, Meta(description="paired by seed; null: dho itself, or without it")] = (
        None
    )
    validation_minus_dho: Annotated[
        MeanInterval | None, Meta(description="the same on validation; null without validation images")
    ] = None


class Comparison(Kind, kw_only=True):
    """comparison.json."""

    schema: Literal["dhox.comparison/1"] = "dhox.comparison/1"
    status: Literal["complete"] = "complete"
    finished_at: Annotated[Name, Meta(description="UTC, ISO 8601")]
    methods: Annotated[list[Literal["dho", "sho", "ce", "kd"]], Meta(min_length=1)]
    seeds: AtLeastOne
    data: Annotated[str, Meta(description="DATA, absolute where it is a path")]
    first_seed: Annotated[int, Meta(description="seed i adds i, for weights and order")]
    first_split_seed: Annotated[int, Meta(description="seed i adds i, for which images are labelled")]
    n_test: Count
    rows: list[ComparisonRow]
    environment: Versions

    def __post_init__(self) -> None:
        if any(len(row.accuracies) != self.seeds for row in self.rows):
            raise ValueError("a row has not one accuracy per seed")
