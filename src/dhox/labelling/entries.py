"""The lines of a label log: which DATA it belongs to, then answers, classes, and what was taken back."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dhox.artefacts.record import Name, Record

What = Literal["label", "none", "bad", "skip", "not"]


class Header(Record, forbid_unknown_fields=True):
    """The first line. `data`: what finds DATA from any directory. `classes`: the class list when the log was begun."""

    data: Name
    classes: list[Name]
    schema: Literal["dhox.labels/1"] = "dhox.labels/1"


class Answer(Record, tag="answer", tag_field="line", forbid_unknown_fields=True, omit_defaults=True):
    """An answer about one image, or about several at once, by their names in DATA.

    `answer`: label (they are `label`), none (none of the classes), bad (no image to learn from), skip (later), not
    (they are not `label`). `taken_away`: images beside them in the grid, of which the answer is not.
    """

    at: Name
    images: Annotated[list[Name], Meta(min_length=1)]
    answer: What
    label: Name | None = None
    taken_away: list[Name] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        if (self.label is not None) != (self.answer in {"label", "not"}):
            raise ValueError(f"an answer {self.answer} with the label {self.label}")
        if self.taken_away and self.answer != "label":
            raise ValueError("taken_away belongs to a label")
        if len({*self.images, *self.taken_away}) < len(self.images) + len(self.taken_away):
            raise ValueError("one image stands there twice")


class NewClass(Record, tag="class", tag_field="line", forbid_unknown_fields=True):
    """A class that was added to the list."""

    at: Name
    name: Name


class Rename(Record, tag="rename", tag_field="line", forbid_unknown_fields=True):
    """A class that has another name from here on; the labels before it too."""

    at: Name
    old: Name
    new: Name


class Undo(Record, tag="undo", tag_field="line", forbid_unknown_fields=True):
    """The answer in line `undone` (the header is line 1) does not count any more."""

    at: Name
    undone: Annotated[int, Meta(ge=2)]


Entry = Answer | NewClass | Rename | Undo


def encoded(entry: Header | Entry) -> bytes:
    """The line of an entry."""
    return msgspec.json.encode(entry) + b"\n"
