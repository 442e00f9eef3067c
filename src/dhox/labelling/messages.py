"""What the page and the server of `dhox label` tell each other, as JSON."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from dhox.artefacts.record import Count, Name, NotNegative, Record, Share
from dhox.labelling.entries import What

MOST_AHEAD = 20
Tab = Annotated[str, Meta(min_length=1, max_length=40)]


class Seen(Record):
    """An image as a tab saw it: its number in the session, and the revision that it had."""

    number: Count
    revision: Count


class Asked(Record):
    """An answer of a tab (see dhox.labelling.entries.Answer). `ahead`: how many of the next images it wants."""

    tab: Tab
    images: Annotated[list[Seen], Meta(min_length=1)]
    answer: What
    label: Name | None = None
    taken_away: list[Seen] = msgspec.field(default_factory=list)
    ahead: Annotated[int, Meta(ge=0, le=MOST_AHEAD)] = 0

    def __post_init__(self) -> None:
        if (self.label is not None) != (self.answer in {"label", "not"}):
            raise ValueError("a label belongs to the answers label and not alone")
        if self.taken_away and self.answer != "label":
            raise ValueError("taken_away belongs to a label")


class TabAsks(Record):
    """What a tab asks beside answers: to take back its last one, or to be forgotten."""

    tab: Tab
    ahead: Annotated[int, Meta(ge=0, le=MOST_AHEAD)] = 0


class NewName(Record):
    """A class to add."""

    name: str


class ShownGuess(Record):
    """A class and its probability."""

    label: Name
    probability: Share


class Shown(Record):
    """An image to be shown. `again`: it was skipped before."""

    number: Count
    name: Name
    revision: Count
    guesses: list[ShownGuess]
    again: bool


class ClassCount(Record):
    """A class: its labels in the log, the digit that is its key, and how many open images are guessed to be one.

    `judged`: those of its labelled images that had guesses; `right`: of these, the first guess was the class.
    `not_understood`: the teacher seems not to know what the class's name means.
    """

    label: Name
    count: Count
    key: Count | None
    guessed: Count
    judged: Count
    right: Count
    not_understood: bool


class StateAnswer(Record, kw_only=True):
    """Where the session stands: its images (`total`), those that need no answer any more (`done`), and what they are.

    `gone`: images that could not be found any more, beside the total. `per_minute`: images, over the last answers.
    `guesses`: how many an image has at most. `coming`: the next images for the tab that asked. `taken_back`: what an
    undo took back. `added`: the class that was added. `command`: what comes after the session.
    """

    data: str
    command: str
    total: Count
    done: Count
    labelled: Count
    none: Count
    bad: Count
    skipped: Count
    gone: Count
    per_minute: NotNegative | None
    guesses: Count
    classes: list[ClassCount]
    coming: list[Shown] = msgspec.field(default_factory=list)
    taken_back: Count = 0
    added: str | None = None


class GridAnswer(Record):
    """Open images whose first guess is `label`: some of `all`."""

    label: Name
    all: Count
    images: list[Shown]
