"""How alpha and beta of a run were chosen, and what speaks for them."""

from __future__ import annotations

from dhox.artefacts.selection import Evidence, LabelFree, Selection
from dhox.evidence.dho_inference import FIXED_ALPHA, FIXED_BETA
from dhox.reports.sections import Cell, Column, Section, Table
from dhox.reports.text import METRICS, percent, share


def selection_section(selection: Selection, method: str) -> Section:
    """The choice in sentences, and the grid that was searched."""
    lines = [f"alpha, beta: {selection_sentence(selection, method)}."]
    if check := selection.label_free:
        lines.append(f"{label_free_sentence(check)}.")
        lines += [f"Warning: {warning}." for warning in check.warnings]
    part = Section(tables=_grid_tables(selection), where="page")
    return Section("Choosing alpha and beta", intro=tuple(lines), parts=(part,))


def _grid_tables(selection: Selection) -> tuple[Table, ...]:
    """The grid as a heat map, shades from the lowest to the highest score; none where nothing was searched."""
    grid = selection.grid
    if grid is None:
        return ()
    scores = [score for row in grid.score for score in row]
    low, high = min(scores), max(scores)
    rows = []
    for column, beta in enumerate(grid.betas):
        cells = [Cell(f"{beta:g}")]
        for row, alpha in enumerate(grid.alphas):
            score = grid.score[row][column]
            chosen = (alpha, beta) == (selection.alpha, selection.beta)
            shade = ((score - low) / max(high - low, 1e-9)) ** 3
            cells.append(Cell(share(score), "strong" if chosen else "", shade=shade))
        rows.append(tuple(cells))
    caption = (
        f"{METRICS[selection.metric]} in % of alpha softmax(CE) + (1 - alpha) softmax(KD / beta) on "
        f"{selection.n_selection_labels} validation labels; the chosen point is framed."
    )
    columns = (Column("beta \\ alpha"), *(Column(f"{alpha:g}") for alpha in grid.alphas))
    return (Table(columns, tuple(rows), caption, heat=True),)


def selection_sentence(selection: Selection, method: str) -> str:
    """How alpha and beta were chosen, with how many labels, and whether that beats the fixed point."""
    if method != "dho":
        return f"none, {method} has one head"
    point = f"({selection.alpha:g}, {selection.beta:g})"
    if selection.source == "imported":
        return f"fixed at {point} when the checkpoint was imported"
    if selection.searched:
        source = {"val": "the val split", "held-out": "held-out labels"}.get(selection.source, "")
        by = "" if selection.metric == "accuracy" else f" by {METRICS[selection.metric].lower()}"
        text = f"{point}, chosen{by} with {selection.n_selection_labels} labels of {source}"
        text += f" ({selection.n_validation} in all)"
    elif selection.kept_fixed and selection.evidence is not None:
        return f"fixed at {point}, since what the search chose is worse: {_difference(selection.evidence)}"
    elif selection.source == "given":
        text = f"{point}, given"
    else:
        labels = f"{selection.n_validation} validation labels"
        return f"fixed at {point}: {labels}, and searching needs {selection.fewest_images}"
    return f"{text}; {_evidence_sentence(selection.evidence)}"


def _evidence_sentence(evidence: Evidence | None) -> str:
    """The chosen point against the fixed one, on validation images that did not choose."""
    if evidence is None:
        return "whether it is better than the fixed one is not known: too few images are left that did not choose"
    verdict = "better than" if evidence.distinguishable else "not distinguishable from"
    return f"{verdict} the fixed ({FIXED_ALPHA}, {FIXED_BETA}): {_difference(evidence)}"


def _difference(evidence: Evidence) -> str:
    """The chosen point's accuracy against the fixed one's."""
    images = {
        "cross-fitted": "validation images, cross-fitted",
        "gate-half": "validation images that did not choose",
        "validation": "validation images",
    }[evidence.images]
    return (
        f"{percent(evidence.chosen)} against "
        f"{percent(evidence.fixed)}, difference {evidence.difference:+.1f} points, one-sided 95 % lower bound "
        f"{evidence.lower_bound:+.1f}, {evidence.chosen.n} {images}"
    )


def label_free_sentence(check: LabelFree) -> str:
    """What unlabelled images say of the mixture."""
    agrees, top = check.dho_agrees_with, check.mean_top_probability
    teacher = "" if agrees.teacher is None else f", the teacher on {share(agrees.teacher)} %"
    return (
        f"Without labels, on {check.n} unlabelled images: the heads agree on {share(check.heads_agree)} %; the mixture "
        f"agrees with the CE head on {share(agrees.ce_head)} %, the KD head on {share(agrees.kd_head)} %{teacher}; "
        f"mean top probability {top.ce_head:.2f} CE, {top.kd_head:.2f} KD, {top.dho:.2f} mixture"
    )
