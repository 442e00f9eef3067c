"""One labelling session: which images are asked for, in which order, and what becomes of each answer."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock

from dhox.artefacts.suggestions import Guess
from dhox.data.dataset import Item
from dhox.errors import DhoxError
from dhox.labelling.classes import all_classes, checked_name, key_classes
from dhox.labelling.entries import Answer, NewClass, Undo
from dhox.labelling.log import LabelLog, now
from dhox.labelling.messages import (
    Asked,
    ClassCount,
    GridAnswer,
    NewName,
    Seen,
    Shown,
    ShownGuess,
    StateAnswer,
    TabAsks,
)
from dhox.serve.refusal import RefusedError

HELD_SECONDS = 120.0  # a tab that asks for nothing so long holds no image any more
PAUSE_SECONDS = 30.0  # a longer time between two answers is no work
RATE_OVER = 50  # answers, for images per minute
KEYS = 9
FEWEST_JUDGED = 5  # labels of a class with a guess; its name is doubted where less than one in ONE_RIGHT_OF is right
ONE_RIGHT_OF = 3


@dataclass(frozen=True, slots=True)
class Question:
    """An image that is asked for, with the best guesses, the best one first."""

    item: Item
    guesses: tuple[Guess, ...]


class Session:
    """Questions, the log of answers, and which tab looks at what. Its methods may be called by any thread."""

    def __init__(self, log: LabelLog, questions: list[Question], listed: list[str], data: str, command: str) -> None:
        self.log, self.questions, self.listed, self.data, self.command = log, questions, listed, data, command
        self._numbers = {question.item.name: number for number, question in enumerate(questions)}
        self._lock = Lock()
        self._held: dict[int, tuple[str, float]] = {}  # question -> tab, and since when
        self._gone: set[int] = set()  # questions whose images are not there any more
        self._first = 0  # no question before it is open
        self._times: deque[tuple[float, int]] = deque(maxlen=RATE_OVER)
        self.answered = 0  # images, in this session
        self._tabs: dict[int, str] = {}  # line of the log -> the tab that gave the answer
        self._by_guess: dict[str, list[int]] = defaultdict(list)
        for number, question in enumerate(questions):
            if question.guesses:
                self._by_guess[question.guesses[0].label].append(number)
        self._keys = key_classes(self.classes, log.state, KEYS - self.guesses)

    @property
    def classes(self) -> list[str]:
        """The labels to choose from."""
        return all_classes(self.listed, self.log.state)

    @property
    def guesses(self) -> int:
        """How many guesses an image has at most; their keys come first."""
        return max((len(question.guesses) for question in self.questions), default=0)

    def state(self) -> StateAnswer:
        """Where the session stands."""
        with self._lock:
            return self._state()

    def next(self, tab: str, count: int) -> list[Shown]:
        """The next images for a tab: those that it holds, then open ones that no other tab holds, then others."""
        with self._lock:
            return self._next(tab, count)

    def grid(self, tab: str, label: str, count: int) -> GridAnswer:
        """Open images whose first guess is `label`, and how many of them there are."""
        with self._lock:
            found = [number for number in self._by_guess.get(label, []) if self._in_grid(number, label)]
            mine = [number for number in found if self._holder(number) in {None, tab}][:count]
            self._hold(tab, mine)
            return GridAnswer(label, len(found), [self._shown(number) for number in mine])

    def answer(self, asked: Asked) -> StateAnswer:
        """Take in an answer, on disk before this returns. Raises RefusedError, with status 409 where an image was
        answered since the tab saw it: then nothing is taken in."""
        with self._lock:
            self._check_fresh([*asked.images, *asked.taken_away])
            if asked.label is not None and asked.label not in self.classes:
                raise RefusedError(422, f"{asked.label} is no class.", "Add it first.")
            names = [self._question(one.number).item.name for one in asked.images]
            away = [self._question(one.number).item.name for one in asked.taken_away]
            line = self.log.append(Answer(now(), names, asked.answer, asked.label, away))
            self._tabs[line] = asked.tab
            for one in (*asked.images, *asked.taken_away):
                self._held.pop(one.number, None)
            self._times.append((time.monotonic(), len(names)))
            self.answered += len(names)
            return self._state(coming=self._next(asked.tab, asked.ahead))

    def undo(self, asked: TabAsks) -> StateAnswer:
        """Take back the newest answer of a tab, or of an earlier session; its image comes first. Raises RefusedError
        (409) where there is none."""
        with self._lock:
            line = self._undoable(asked.tab)
            answer = self.log.state.answers()[line]
            self.log.append(Undo(now(), line))
            self.answered -= len(answer.images) if line in self._tabs else 0
            back = [self._numbers[name] for name in (*answer.images, *answer.taken_away)]
            self._first = min(self._first, *back)
            self._hold(asked.tab, back)
            first = [self._shown(back[0])] if len(back) == 1 else []
            rest = [one for one in self._next(asked.tab, asked.ahead) if one.number not in back or not first]
            return self._state(coming=first + rest, taken_back=len(back))

    def add_class(self, asked: NewName) -> StateAnswer:
        """A new class for the list. Raises RefusedError (422) for a name that cannot be one."""
        with self._lock:
            try:
                checked = checked_name(asked.name, self.classes)
            except DhoxError as err:
                raise RefusedError(422, err.reason, err.fix) from err
            self.log.append(NewClass(now(), checked))
            if len(self._keys) < KEYS - self.guesses:
                self._keys.append(checked)
            return self._state(added=checked)

    def labels(self) -> dict[str, str]:
        """Label by image of the whole log."""
        with self._lock:
            return self.log.state.labels()

    def leave(self, tab: str) -> None:
        """A tab was closed: others may have what it held."""
        with self._lock:
            self._held = {number: held for number, held in self._held.items() if held[0] != tab}

    def item(self, number: int) -> Item:
        """The image of a question. Raises RefusedError (404)."""
        return self._question(number).item

    def lose(self, number: int) -> None:
        """The image of a question is not there any more: it is not asked for."""
        with self._lock:
            if not self.log.state.is_done(self.questions[number].item.name):
                self._gone.add(number)
                for guess in self.questions[number].guesses[:1]:
                    self._by_guess[guess.label] = [one for one in self._by_guess[guess.label] if one != number]

    @property
    def gone(self) -> list[str]:
        """Names of images that were not there any more."""
        return [self.questions[number].item.name for number in sorted(self._gone)]

    def left(self) -> int:
        """Images that wait for an answer."""
        return sum(self._is_open(number) for number in range(len(self.questions)))

    def _undoable(self, tab: str) -> int:
        """The line of the newest answer that a tab may take back."""
        for line, answer in reversed(self.log.state.answers().items()):
            asked = all(name in self._numbers for name in (*answer.images, *answer.taken_away))
            if asked and self._tabs.get(line, tab) == tab and self.log.state.can_undo(line):
                return line
        raise RefusedError(409, "There is nothing to take back.", "Go on.")

    def _question(self, number: int) -> Question:
        if not 0 <= number < len(self.questions):
            raise RefusedError(404, f"There is no image {number}.", "Open the page again.")
        return self.questions[number]

    def _check_fresh(self, images: list[Seen]) -> None:
        """Raise RefusedError (409) where an image is not what the tab believes."""
        numbers = [one.number for one in images]
        if len({*numbers}) < len(numbers):
            raise RefusedError(400, "An image stands there twice.", "Open the page again.")
        for one in images:
            name = self._question(one.number).item.name
            if self.log.state.revision(name) != one.revision:
                given = self.log.state.given(name)
                said = "it is open again" if given is None else given.label or given.answer
                raise RefusedError(409, f"{name} was answered elsewhere: {said}.", "Here is what comes next.")

    def _is_open(self, number: int) -> bool:
        return number not in self._gone and not self.log.state.is_done(self.questions[number].item.name)

    def _is_skipped(self, number: int) -> bool:
        given = self.log.state.given(self.questions[number].item.name)
        return given is not None and given.answer == "skip"

    def _in_grid(self, number: int, label: str) -> bool:
        return self._is_open(number) and label not in self.log.state.is_not(self.questions[number].item.name)

    def _holder(self, number: int) -> str | None:
        held = self._held.get(number)
        return held[0] if held is not None and time.monotonic() - held[1] < HELD_SECONDS else None

    def _hold(self, tab: str, numbers: list[int]) -> None:
        self._held |= {number: (tab, time.monotonic()) for number in numbers}

    def _next(self, tab: str, count: int) -> list[Shown]:
        while self._first < len(self.questions) and not self._is_open(self._first):
            self._first += 1
        fresh, others, skipped = [], [], []
        for number in range(self._first, len(self.questions)):
            if not self._is_open(number):
                continue
            holder = self._holder(number)
            if self._is_skipped(number):
                skipped.append(number)
            elif holder in {None, tab}:
                fresh.append(number)
            else:
                others.append(number)
            if len(fresh) == count:
                break
        if len(fresh) < count:  # then every question was looked at
            skipped.sort(key=lambda number: self.log.state.revision(self.questions[number].item.name))
            skipped.sort(key=lambda number: self._holder(number) not in {None, tab})
            fresh += skipped + others
        found = fresh[:count]
        self._hold(tab, [number for number in found if self._holder(number) in {None, tab}])
        return [self._shown(number) for number in found]

    def _shown(self, number: int) -> Shown:
        question = self.questions[number]
        name = question.item.name
        again = self._is_skipped(number)
        guesses = [ShownGuess(guess.label, guess.probability) for guess in question.guesses]
        return Shown(number, name, self.log.state.revision(name), guesses, again)

    def _state(self, coming: list[Shown] | None = None, taken_back: int = 0, added: str | None = None) -> StateAnswer:
        said: Counter[str] = Counter()
        judged: Counter[str | None] = Counter()
        right: Counter[str | None] = Counter()
        guessed = Counter({label: len(numbers) for label, numbers in self._by_guess.items()})
        for name, given in self.log.state.answered():
            number = self._numbers.get(name, -1)
            if number < 0 or number in self._gone:
                continue
            said[given.answer] += 1
            for guess in self.questions[number].guesses[:1]:
                guessed[guess.label] -= not self._in_grid(number, guess.label)
                judged[given.label] += given.answer == "label"
                right[given.label] += given.answer == "label" and guess.label == given.label
        labels = self.log.state.counts()
        classes = [
            ClassCount(
                label, labels[label], self._key(label), guessed[label], judged[label], right[label],
                judged[label] >= FEWEST_JUDGED and ONE_RIGHT_OF * right[label] < judged[label],
            )
            for label in self.classes
        ]  # fmt: skip
        return StateAnswer(
            data=self.data, command=self.command, total=len(self.questions) - len(self._gone),
            labelled=said["label"], none=said["none"],
            bad=said["bad"], done=said["label"] + said["none"] + said["bad"], skipped=said["skip"],
            gone=len(self._gone), per_minute=self._rate(), guesses=self.guesses, classes=classes,
            coming=coming or [], taken_back=taken_back, added=added,
        )  # fmt: skip

    def _key(self, label: str) -> int | None:
        return self._keys.index(label) + 1 + self.guesses if label in self._keys else None

    def _rate(self) -> float | None:
        """Images per minute over the last answers, pauses left out; None before there are three."""
        times = [*self._times]
        steps = [(after[0] - before[0], after[1]) for before, after in pairwise(times)]
        worked = [(seconds, images) for seconds, images in steps if seconds < PAUSE_SECONDS]
        seconds = sum(step[0] for step in worked)
        return 60 * sum(images for _, images in worked) / seconds if len(worked) > 1 and seconds else None
