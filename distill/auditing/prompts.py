"""Which class names the teacher does not understand, and whether other prompts do better, cross-fitted on labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from dhox.artefacts.audit import Gain, PromptRow, PromptTrial, TemplatesRow
from dhox.artefacts.files import write_bytes
from dhox.distill.auditing.linear_probe import FOLDS, deal
from dhox.distill.auditing.subject import Embedded, Subject
from dhox.distill.teachers.templates import ENSEMBLES, template_list

FEWEST = 2  # labelled images of a class, below which nothing is said of it


@dataclass(frozen=True)
class Answers:
    """Zero-shot logits [N, C] of the images that judge, at the teacher's scale, and their class numbers `truth` [N]."""

    logits: np.ndarray
    truth: np.ndarray

    @cached_property
    def right(self) -> np.ndarray:
        """bool [N]: the present prompts' answers."""
        found: np.ndarray = self.logits.argmax(-1) == self.truth
        return found

    @cached_property
    def _first_two(self) -> np.ndarray:
        """int [N, 2]: the two classes with the greatest logits."""
        first = self.logits.argmax(-1)
        rest = self.logits.copy()
        rest[np.arange(len(rest)), first] = -np.inf
        return np.stack([first, rest.argmax(-1)], 1)

    @cached_property
    def total(self) -> np.ndarray:
        """float64 [N]: log-sum-exp of the logits."""
        top = self.logits.max(-1).astype(np.float64)
        total: np.ndarray = top + np.log(np.exp(self.logits - top[:, None]).sum(-1))
        return total

    def of_column(self, number: int, column: np.ndarray) -> Column:
        """What the answers become where class `number` has the logits `column` [N] instead of its own."""
        rows = np.arange(len(self.truth))
        other = np.where(self._first_two[:, 0] == number, self._first_two[:, 1], self._first_two[:, 0])
        best = self.logits[rows, other]
        answers = np.where((column > best) | ((column == best) & (number < other)), number, other)
        own = np.exp(np.minimum(self.logits[:, number] - self.total, np.log1p(-1e-9)))
        total = np.logaddexp(self.total + np.log1p(-own), column)
        of_truth = np.where(self.truth == number, column, self.logits[rows, self.truth])
        return Column(column, answers == self.truth, total - of_truth)


@dataclass(frozen=True)
class Column:
    """Logits [N] of one class by one prompt; with it, each image right or wrong [N], and its NLL in nats [N]."""

    logits: np.ndarray
    right: np.ndarray
    nll: np.ndarray


def best_of(columns: list[Column], chosen: np.ndarray) -> int:
    """The one with the most right answers on the images `chosen` (bool [N]); on ties the likelier, then the first."""
    return min(
        range(len(columns)),
        key=lambda i: (-int(columns[i].right[chosen].sum()), float(columns[i].nll[chosen].mean()), i),
    )


def cross_fitted(columns: list[Column], folds: np.ndarray) -> Column:
    """Each image by the one that the other folds choose."""
    logits, right, nll = (np.empty_like(field) for field in (columns[0].logits, columns[0].right, columns[0].nll))
    for fold in np.unique(folds):
        held = folds == fold
        one = columns[best_of(columns, ~held)]
        logits[held], right[held], nll[held] = one.logits[held], one.right[held], one.nll[held]
    return Column(logits, right, nll)


def try_prompts(
    subject: Subject, embedded: Embedded, logits: np.ndarray, others: Mapping[str, list[str]],
    templates: Mapping[str, list[str]],
) -> PromptTrial:  # fmt: skip
    """How well the images that judge are recognised by class, and what other prompt names and templates would gain.

    `logits` [N, C] of the present prompts; `others`: label -> prompt names to try; `templates`: the same, by name.
    A gain is measured on the fold that had no part in choosing (groups stay whole), against the present prompts.
    """
    judges = subject.judges
    answers = Answers(logits, judges.labels.numpy())
    folds = deal(answers.truth, [item.group or item.name for item in judges.items], FOLDS)
    rows, columns = [], {}
    for number, (label, prompt) in enumerate(subject.listing.classes):
        own = answers.truth == number
        names = [name for name in others.get(label, []) if name != prompt]
        if own.sum() < FEWEST or len(np.unique(folds)) < 2:
            continue
        row, column = _class_row(answers, folds, number, label, [prompt, *names], _columns(embedded, subject, names))
        rows.append(row)
        if row.recommended:
            columns[number] = column.logits
    together = None
    if columns:
        new = logits.copy()
        for number, of_class in columns.items():
            new[:, number] = of_class
        together = Gain.of(new.argmax(-1) == answers.truth, answers.right)
    tried = _template_rows(subject, embedded, answers, folds, templates)
    return PromptTrial(folds=len(np.unique(folds)), classes=_flagged(rows), templates=tried, together=together)


def _columns(embedded: Embedded, subject: Subject, names: list[str]) -> np.ndarray:
    """Logits [N, A] of prompt names over the present templates."""
    if not names:
        return np.zeros((len(subject.judges.items), 0), np.float32)
    return _logits(embedded, subject, names, embedded.templates)


def _logits(embedded: Embedded, subject: Subject, names: list[str], templates: list[str]) -> np.ndarray:
    teacher = embedded.teacher
    text = teacher.encode_classes(names, templates)
    found: np.ndarray = (teacher.scale * (embedded.z_of(subject.judges) @ text.T)).numpy()
    return found


def _class_row(
    answers: Answers, folds: np.ndarray, number: int, label: str, prompts: list[str], logits: np.ndarray
) -> tuple[PromptRow, Column]:
    """The row of one class, and its cross-fitted column. `prompts`: the present one and then those of `logits`."""
    columns = [answers.of_column(number, column) for column in (answers.logits[:, number], *logits.T)]
    best = best_of(columns, np.ones(len(folds), bool))
    fitted = cross_fitted(columns, folds)
    gain = Gain.of(fitted.right, answers.right) if len(prompts) > 1 else None
    row = PromptRow.of(
        answers.right[answers.truth == number], class_=label, prompt=prompts[0], not_understood=False,
        tried=len(prompts) - 1, best=prompts[best] if best else None, gain=gain,
        recommended=gain is not None and gain.shown and best > 0,
    )  # fmt: skip
    return row, fitted


def _flagged(rows: list[PromptRow]) -> list[PromptRow]:
    """The rows with `not_understood` where the interval's upper end lies below the mean accuracy of the other rows."""
    total = sum(row.accuracy for row in rows)
    return [
        replace(row, not_understood=len(rows) > 1 and row.interval[1] < (total - row.accuracy) / (len(rows) - 1))
        for row in rows
    ]


def other_templates(present: list[str]) -> dict[str, list[str]]:
    """open_clip's ensembles, by the name that --templates takes, without the one that is in use."""
    found = {name: template_list(name, []) for name in ENSEMBLES}
    return {name: texts for name, texts in found.items() if texts != present}


def _template_rows(
    subject: Subject, embedded: Embedded, answers: Answers, folds: np.ndarray, templates: Mapping[str, list[str]]
) -> list[TemplatesRow]:
    """The present templates, then each other set; one may be recommended: that which all images choose, where choosing
    it on other folds gains."""
    if not templates or len(np.unique(folds)) < 2:
        return []
    names = ["present", *templates]
    whole = [answers.logits]
    whole += [_logits(embedded, subject, subject.listing.prompts, texts) for texts in templates.values()]
    rows = np.arange(len(answers.truth))
    columns = []
    for logits in whole:
        of_set = Answers(logits, answers.truth)
        nll = of_set.total - logits[rows, answers.truth]
        columns.append(Column(logits[rows, answers.truth], of_set.right, nll))
    best = best_of(columns, np.ones(len(folds), bool))
    found = []
    for number, (name, column) in enumerate(zip(names, columns, strict=True)):
        fitted = cross_fitted([columns[0], column], folds)
        gain = Gain.of(fitted.right, answers.right) if number else None
        recommended = gain is not None and gain.shown and number == best
        found.append(TemplatesRow.of(column.right, templates=name, gain=gain, recommended=recommended))
    return found


def write_better_classes(path: Path, classes: list[tuple[str, str]], trial: PromptTrial) -> None:
    """The class list with the recommended prompt names, as --classes takes it."""
    better = {row.class_: row.best for row in trial.classes if row.recommended}
    lines = [f"{label}\t{better.get(label) or prompt}\n" for label, prompt in classes]
    write_bytes(path, "".join(lines).encode())
