"""Of an audit: which class names the teacher does not understand, and what other prompts and templates would gain."""

from __future__ import annotations

from dhox.artefacts.audit import Audit, Gain, PromptRow, PromptTrial, TemplatesRow
from dhox.artefacts.files import BETTER_CLASSES
from dhox.reports.sections import Cell, Section, cells, table
from dhox.reports.text import MOST_NAMED, percent

MOST_CLASSES = 40
NO_EVIDENCE = "no evidence"


def prompt_sections(audit: Audit) -> list[Section]:
    """The class names that are not understood, the prompts that were tried, and the sets of templates."""
    trial = audit.prompts
    if trial is None or not trial.classes:
        return []
    title = "Class names the teacher does not understand"
    found = [*_understood(trial), *_advice(trial)]
    shown = [row for row in trial.classes if row.not_understood or row.tried]
    shown = sorted(shown, key=lambda row: (not row.recommended, row.accuracy))[:MOST_CLASSES]
    caption = (
        f"On {audit.judges.words.partition(';')[0]}: {len(shown)} of {len(trial.classes)} classes with at least 2. "
        f"Gain: over all classes, in points, with its one-sided 95 % lower bound, on {trial.folds} folds that had no "
        "part in choosing the prompt."
    )
    titles = "class|<prompt|recognised (95 %)|<|<better prompt|gain"
    tables = table(titles, [_row(row) for row in shown], caption)
    templates = table(
        "templates|accuracy (95 %)|gain|<",
        [cells(row.templates, percent(row), gain_text(row.gain), _verdict(row)) for row in trial.templates],
        "Each with the present prompt names; the gain is cross-fitted.",
    )
    return [Section(title, tuple(found), tables), Section("Sets of templates", tables=templates)]


def _understood(trial: PromptTrial) -> list[str]:
    """Which classes are recognised worse than the others."""
    lost = [f"{row.class_} ({row.correct} of {row.n})" for row in trial.classes if row.not_understood]
    if not lost:
        return ["No class is recognised measurably worse than the others."]
    more = f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
    return [f"Recognised measurably worse than the other classes: {', '.join(lost[:MOST_NAMED])}{more}."]


def _advice(trial: PromptTrial) -> list[str]:
    """What to do next."""
    tried = [row for row in trial.classes if row.tried]
    lines = []
    if trial.together is not None:
        n = sum(row.recommended for row in trial.classes)
        what = f"Other prompts for {n} class{'es' * (n > 1)} gain {gain_text(trial.together)} points"
        found = f"{BETTER_CLASSES} is the class list with them" if trial.class_list else NO_EVIDENCE
        lines.append(f"{what}: {found}.")
    elif tried:
        lines.append(f"Of the other prompts of {len(tried)} classes none gains: {NO_EVIDENCE}. Keep the present ones.")
    elif any(row.not_understood for row in trial.classes):
        lines.append("Write other names for them, a class, a tab and a name on each line, and try --prompts FILE.")
    if trial.best_templates and trial.class_list:
        lines.append(f"--templates {trial.best_templates} gains too, with the present names: audit again with both.")
    elif trial.best_templates:
        lines.append(f"--templates {trial.best_templates} gains.")
    return lines


def _row(row: PromptRow) -> tuple[Cell, ...]:
    understood = Cell("not understood", "bad") if row.not_understood else Cell("")
    better = row.best or "the present one" if row.tried else "none tried"
    return cells(
        row.class_, row.prompt, percent(row), understood, Cell(better, "good" if row.recommended else "dim"),
        gain_text(row.gain) if row.recommended or not row.tried else f"{gain_text(row.gain)} {NO_EVIDENCE}",
    )  # fmt: skip


def gain_text(gain: Gain | None) -> str:
    """`+1.2 (≥ +0.4)`."""
    return "" if gain is None else f"{gain.difference:+.1f} (≥ {gain.lower_bound:+.1f})"


def _verdict(row: TemplatesRow) -> str:
    """What the gain of a set of templates says."""
    return "" if row.gain is None else "recommended" if row.recommended else NO_EVIDENCE
