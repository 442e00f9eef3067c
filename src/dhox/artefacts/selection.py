"""selection.json: alpha and beta of a run, and what speaks for them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dhox.artefacts.common import Accuracy, Metric
from dhox.artefacts.record import Count, Kind, Positive, Record, Share
from dhox.artefacts.run import Source

SELECTION_FILE = "selection.json"
Agreement = Annotated[Share, Meta(description="share of images with one top-1 answer")]


class Grid(Record):
    """What the search saw: the metric at every pair of alpha and beta."""

    alphas: list[Share]
    betas: list[Positive]
    score: Annotated[list[list[Share]], Meta(description="the metric, [alphas][betas]")]

    def __post_init__(self) -> None:
        if len(self.score) != len(self.alphas) or any(len(row) != len(self.betas) for row in self.score):
            raise ValueError("score is not [alphas][betas]")

    def is_best(self, alpha: float, beta: float) -> bool:
        """Whether no other point scored more than this one, which is one of the grid."""
        if alpha not in self.alphas or beta not in self.betas:
            return False
        return self.score[self.alphas.index(alpha)][self.betas.index(beta)] == max(map(max, self.score))


class Evidence(Record, kw_only=True):
    """Validation accuracy at the chosen and at the fixed point (0.4, 0.5), on images that did not choose."""

    images: Literal["gate-half", "cross-fitted", "validation"]  # not selecting; by five folds; all, nothing searched
    chosen: Accuracy
    fixed: Accuracy
    difference: Annotated[float, Meta(description="chosen minus fixed, points")]
    lower_bound: Annotated[float, Meta(description="of the difference, one-sided 95 %, paired, points")]
    distinguishable: Annotated[bool, Meta(description="the lower bound is above 0")]


class DhoAgreement(Record):
    """How often DHO inference answers as its heads and the teacher do."""

    ce_head: Agreement
    kd_head: Agreement
    teacher: Annotated[Agreement | None, Meta(description="null without a teacher")] = None


class Follows(Record):
    """Whom DHO inference follows where the heads disagree; null where they never do."""

    ce_head: Agreement | None
    kd_head: Agreement | None


class TopProbability(Record):
    """Mean top-1 probabilities."""

    ce_head: float
    kd_head: float
    dho: float


class LabelFree(Record, kw_only=True):
    """What unlabelled images say of alpha and beta; a check for degenerate mixtures, not for right answers."""

    n: Annotated[Count, Meta(description="unlabelled images")]
    n_disagree: Annotated[Count, Meta(description="images on which the heads disagree")]
    heads_agree: Agreement
    dho_agrees_with: DhoAgreement
    follows_where_heads_disagree: Follows
    mean_top_probability: TopProbability
    ce_head_saturated: Annotated[Share, Meta(description="share of images with a top probability above 0.99")]
    warnings: list[str]


class Selection(Kind, kw_only=True):
    """selection.json."""

    schema: Literal["dhox.selection/1"] = "dhox.selection/1"
    alpha: Annotated[Share, Meta(description="weight of the CE head")]
    beta: Annotated[Positive, Meta(description="temperature of the KD head")]
    searched: Annotated[bool, Meta(description="chosen on validation labels, not fixed or given")]
    metric: Metric
    source: Source
    n_validation: Count
    n_selection_labels: Annotated[Count, Meta(description="validation labels that chose")]
    fewest_images: Annotated[Count, Meta(description="with fewer validation images nothing is searched")]
    grid: Annotated[Grid | None, Meta(description="null where nothing was searched")]
    evidence: Annotated[Evidence | None, Meta(description="null without two heads, or images that did not choose")] = (
        None
    )
    label_free: Annotated[LabelFree | None, Meta(description="null where labels chose, or without images")] = None
    kept_fixed: Annotated[bool, Meta(description="what a search chose is worse on images that did not choose")] = False

    def __post_init__(self) -> None:
        if self.n_selection_labels > self.n_validation:
            raise ValueError("n_selection_labels is above n_validation")
        if self.searched != (self.grid is not None):
            raise ValueError("there is a grid where something was searched, and only there")
        if self.kept_fixed and (self.searched or self.evidence is None):
            raise ValueError("kept_fixed is of a search that evidence speaks against")
