"""What a retuned export computes with: what is asked for, what stays, what is tuned again, and the evidence."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from msgspec.structs import replace

from dhox.artefacts.common import Metric
from dhox.artefacts.golden import Golden
from dhox.artefacts.heads import Heads
from dhox.artefacts.ledger import Ledger
from dhox.artefacts.logits import Logits
from dhox.artefacts.manifest import ComparisonRow, Evidence, Fold
from dhox.distill.results.selection import FEWEST_IMAGES, choose_of
from dhox.distill.results.validation_parts import selecting_half
from dhox.distill.small_options import RetuneOptions
from dhox.errors import DhoxError, UsageError
from dhox.export.folding.fold import choose_fold, compare, tuned_linear, why_not_plain
from dhox.models.export_directory import Export

NUMBERS = ("alpha", "beta", "c_ce", "c_kd", "z_norm")


@dataclass(frozen=True)
class Before:
    """The export to be retuned, every file read and checked; `models`: content by file name."""

    export: Export
    heads: Heads
    val: Logits
    golden: Golden
    ledger: Ledger
    models: dict[str, bytes]

    @classmethod
    def of(cls, export: Export) -> Before:
        """Read it whole."""
        models = {entry.file: export.model(entry).read_bytes() for entry in export.manifest.artefacts}
        return cls(export, export.heads(), export.validation(), export.golden(), export.ledger(), models)


@dataclass(frozen=True)
class Numbers:
    """The new fold, its evidence and comparison; by which metric and how many labels, and whether it was searched."""

    fold: Fold
    evidence: Evidence | None
    comparison: list[ComparisonRow]
    metric: Metric
    n_labels: int
    searched: bool


def check_asked(export: Export, options: RetuneOptions) -> None:
    """Raise where a number is infinite but r, or the export's rule has no such number."""
    (_, beta), of = options.chosen.mixture or (None, None), options.export
    if inf in {beta, of.tau}:
        raise UsageError(
            "alpha is a number from 0 to 1, beta and tau are above 0, and r is a number of at least 0, or inf.",
            "Give such ones.",
        )
    rule = export.manifest.fold.rule
    if rule == "single":
        raise DhoxError(
            f"{export.path} holds a student with one head: there is nothing to retune.", "Export a dho run."
        )
    if rule != "linear" and (of.r is not None or of.tau is not None):
        raise UsageError(
            f"{export.path} holds the rule {rule}, whose graph has two softmaxes and no r or tau.",
            "Export again with --fold-rule linear, or give --alpha and --beta.",
        )


def new_numbers(before: Before, options: RetuneOptions) -> Numbers:
    """What is asked for, what stays and what is tuned again (see `retune_export`), with the evidence for it."""
    manifest, val, old = before.export.manifest, before.val, before.export.manifest.fold
    half = selecting_half(val)
    mixture, r, tau = options.chosen.mixture, options.export.r, options.export.tau
    nothing = mixture is None and r is None and tau is None  # is given: then all are chosen again
    alpha, beta, metric = old.alpha, old.beta, options.chosen.metric or manifest.metric
    n_labels, searched = manifest.n_selection_labels, manifest.searched
    if mixture is not None:
        (alpha, beta), searched = mixture, False
        n_labels = n_labels if old.rule == "linear" else 0
    elif nothing and half.sum() >= FEWEST_IMAGES:
        chosen = choose_of(val.of(half), metric)
        alpha, beta, n_labels, searched = chosen.alpha, chosen.beta, int(half.sum()), True
    if old.rule == "linear" and old.tuned_on != "inference-weights" and not nothing and r is None:
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
    return Numbers(fold, evidence, comparison, metric, n_labels, searched)
