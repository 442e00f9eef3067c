"""What a retuned export computes with: what is asked for, what stays, what is tuned again, and the evidence."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, isnan

from msgspec.structs import replace

from dhox.artefacts.common import Metric
from dhox.artefacts.manifest import (
    ComparisonRow,
    Evidence,
    Fold,
)
from dhox.distill.results.selection import FEWEST_IMAGES, choose_alpha_beta, selecting_half
from dhox.errors import DhoxError, UsageError
from dhox.export.folding.fold import choose_fold, compare, tuned_linear, why_not_plain
from dhox.export.retuning.before import Before
from dhox.models.export_directory import Export

NUMBERS = ("alpha", "beta", "c_ce", "c_kd", "z_norm")


@dataclass(frozen=True)
class Asked:
    """What the user gives: alpha and beta, r (may be infinite), tau, and the metric for what is chosen again."""

    mixture: tuple[float, float] | None
    r: float | None
    tau: float | None
    metric: Metric

    @property
    def nothing(self) -> bool:
        """Whether no number is given: then all are chosen again."""
        return self.mixture is None and self.r is None and self.tau is None


@dataclass(frozen=True)
class Numbers:
    """The new fold, its evidence and comparison; how many labels chose it, and whether alpha and beta were searched."""

    fold: Fold
    evidence: Evidence | None
    comparison: list[ComparisonRow]
    n_labels: int
    searched: bool


def check_asked(export: Export, asked: Asked) -> None:
    """Raise where a number is none or out of its range, or the export's rule has no such number."""
    alpha, beta = asked.mixture or (0.0, 1.0)
    tau, r = 1.0 if asked.tau is None else asked.tau, 1.0 if asked.r is None else asked.r
    if not (0 <= alpha <= 1 and beta > 0 and tau > 0 and isfinite(beta) and isfinite(tau)) or isnan(r) or r < 0:
        raise UsageError(
            "alpha is a number from 0 to 1, beta and tau are above 0, and r is a number of at least 0, or inf.",
            "Give such ones.",
        )
    rule = export.manifest.fold.rule
    if rule == "single":
        raise DhoxError(
            f"{export.path} holds a student with one head: there is nothing to retune.", "Export a dho run."
        )
    if rule != "linear" and (asked.r is not None or asked.tau is not None):
        raise UsageError(
            f"{export.path} holds the rule {rule}, whose graph has two softmaxes and no r or tau.",
            "Export again with --fold-rule linear, or give --alpha and --beta.",
        )


def new_numbers(before: Before, asked: Asked) -> Numbers:
    """What is asked for, what stays and what is tuned again (see `retune_export`), with the evidence for it."""
    manifest, val, old = before.export.manifest, before.val, before.export.manifest.fold
    half = selecting_half(val.names.tolist())
    alpha, beta, metric, r, tau = old.alpha, old.beta, asked.metric, asked.r, asked.tau
    n_labels, searched = manifest.n_selection_labels, manifest.searched
    if asked.mixture is not None:
        (alpha, beta), searched = asked.mixture, False
        n_labels = n_labels if old.rule == "linear" else 0
    elif asked.nothing and half.sum() >= FEWEST_IMAGES:
        chosen = choose_alpha_beta(val.ce_logits[half], val.kd_logits[half], val.labels[half], metric)
        alpha, beta, n_labels, searched = chosen.alpha, chosen.beta, int(half.sum()), True
    if old.rule == "linear" and old.tuned_on != "inference-weights" and not asked.nothing and r is None:
        r, tau = inf if old.r is None else old.r, old.tau if tau is None else tau
    linear = tuned_linear(val, alpha, beta, metric, r=r, tau=tau)
    plain = None
    if before.heads.cosine and why_not_plain(val) is None:
        plain = tuned_linear(val, alpha, beta, metric, plain=True, r=r, tau=tau)
    fold, evidence = choose_fold(
        val, linear, "linear" if old.rule == "linear" else "exact",
        manifest.evidence.tolerance if manifest.evidence else 1.0, metric,
        plain=plain if old.rule != "linear" or old.z_norm is not None else None, cosine=before.heads.cosine,
        searched=searched,
    )  # fmt: skip
    if old.rule == "heads":
        fold = Fold("heads", alpha, beta)
    if all(getattr(fold, name) == getattr(old, name) for name in NUMBERS):
        fold = old
    costs = {row.stage: row for row in manifest.comparison}
    comparison = [
        replace(row, head_parameters=known.head_parameters, head_us=known.head_us) if known else row
        for row in compare(val, linear, plain)
        for known in [costs.get(row.stage)]
    ]
    return Numbers(fold, evidence, comparison, n_labels, searched)
