"""Where the zero-shot answers of a teacher go wrong: by template, by class, by pair of classes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from dhox.artefacts.audit import ClassRow, Confusion, TemplateRow, TextPair
from dhox.artefacts.common import Accuracy
from dhox.distill.auditing.advice import Way
from dhox.distill.auditing.nearest import nearest
from dhox.distill.auditing.subject import Embedded, Judges, Subject

SHOWN = 16  # pairs of classes named


def template_rows(embedded: Embedded, judges: Judges) -> list[TemplateRow]:
    """Zero-shot accuracy of each template alone, best first."""
    if not judges.items:
        return []
    z = embedded.z_of(judges)
    rows = [
        TemplateRow.of(((z @ text.T).argmax(-1) == judges.labels).numpy(), template=template)
        for template, text in zip(embedded.templates, embedded.each, strict=True)
    ]
    return sorted(rows, key=lambda row: -row.correct)


def class_rows(ways: list[Way], subject: Subject) -> list[ClassRow]:
    """Zero-shot and probe accuracy per class, in class order; `taken_for`: the most frequent wrong zero-shot answer."""
    if not ways:
        return []
    truth, labels = subject.judges.labels.numpy(), subject.labels
    probe = next((way for way in ways if way.way == "linear probe" and way.model == ways[0].model), None)
    rows = []
    ends = np.cumsum(np.bincount(truth, minlength=len(labels)))
    of_class = np.split(np.argsort(truth, kind="stable"), ends[:-1])
    for number, (label, own) in enumerate(zip(labels, of_class, strict=True)):
        wrong = Counter(answer for answer in ways[0].answers[own].tolist() if answer != number)
        taken_for, times = max(wrong.items(), key=lambda entry: (entry[1], -entry[0])) if wrong else (None, 0)
        rows.append(
            ClassRow.of(
                ways[0].right[own], class_=label, probe=Accuracy.of(probe.right[own]) if probe else None,
                taken_for=None if taken_for is None else labels[taken_for], times=times,
            )
        )  # fmt: skip
    return rows


def confusion_rows(ways: list[Way], subject: Subject, text: torch.Tensor) -> list[Confusion]:
    """The pairs of classes that zero-shot answers mix up most, both directions together, with example images."""
    if not ways:
        return []
    judges, labels = subject.judges, subject.labels
    truth, answers = judges.labels.numpy(), ways[0].answers
    wrong = np.flatnonzero(truth != answers)
    pairs = np.sort(np.stack([truth[wrong], answers[wrong]], axis=1), axis=1)
    found, times = np.unique(pairs, axis=0, return_counts=True)  # sorted by class numbers
    rows = []
    for a, b in found[np.argsort(-times, kind="stable")[:SHOWN]].tolist():
        first, second = (truth == a) & (answers == b), (truth == b) & (answers == a)
        rows.append(
            Confusion(
                classes=(labels[a], labels[b]),
                first_taken_for_second=int(first.sum()),
                second_taken_for_first=int(second.sum()),
                n=int((truth == a).sum() + (truth == b).sum()),
                text_cosine=float(text[a] @ text[b]),
                examples=[judges.items[i].name for i in np.flatnonzero(first | second)[:4]],
            )
        )
    return rows


def text_rows(embedded: Embedded, labels: list[str]) -> list[TextPair]:
    """The pairs of classes whose prompts the teacher finds most alike: each class and its nearest, pairs once."""
    text, numbers = embedded.text, torch.arange(len(labels))
    found = nearest(text, text, embedded.teacher.device, exclude=(numbers, numbers))
    pairs = {
        tuple(sorted((i, int(j)))): float(cosine)
        for i, (cosine, j) in enumerate(zip(found.similarity, found.row, strict=True))
    }
    best = sorted(pairs.items(), key=lambda entry: -entry[1])[:SHOWN]
    return [TextPair((labels[a], labels[b]), cosine) for (a, b), cosine in best]
