"""What a label log comes to: a pure function of its entries, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dhox.labelling.entries import Answer, Entry, NewClass, Rename, Undo, What


@dataclass(frozen=True, slots=True)
class Given:
    """What was said of one image. `line`: of the log."""

    line: int
    answer: What
    label: str | None


class State:
    """Answers by image, after the entries that were applied.

    `added`: classes that were added to the list, in their order. `renamed`: old name -> present name. `said`: every
    (image, label) that was ever given, also where it does not count any more.
    """

    def __init__(self) -> None:
        self.line = 1  # of the last entry, or the header
        self.added: list[str] = []
        self.renamed: dict[str, str] = {}
        self.said: set[tuple[str, str]] = set()
        self._given: dict[str, list[Given]] = {}  # those that count, the last one last
        self._revisions: dict[str, int] = {}
        self._answers: dict[int, Answer] = {}  # by line, those that count

    def apply(self, entry: Entry) -> int:
        """Take in the next entry; its line. Raises ValueError, and changes nothing, where it contradicts the others."""
        line = self.line + 1
        if isinstance(entry, Answer):
            self._answer(line, entry)
        elif isinstance(entry, Undo):
            self._undo(line, entry)
        elif isinstance(entry, NewClass):
            if entry.name in self.added:
                raise ValueError(f"the class {entry.name} is there already")
            self.added.append(entry.name)
            self.renamed.pop(entry.name, None)
        else:
            self._rename(entry)
        self.line = line
        return line

    def given(self, image: str) -> Given | None:
        """What counts of one image."""
        given = self._given.get(image)
        return given[-1] if given else None

    def is_done(self, image: str) -> bool:
        """Whether an image need not be shown again."""
        given = self.given(image)
        return given is not None and given.answer in {"label", "none", "bad"}

    def is_not(self, image: str) -> set[str]:
        """Labels that an image was said not to have."""
        return {str(given.label) for given in self._given.get(image, []) if given.answer == "not"}

    def revision(self, image: str) -> int:
        """The line that last changed what is known of an image; 0 before any."""
        return self._revisions.get(image, 0)

    def answers(self) -> dict[int, Answer]:
        """Line -> answer that counts, in the order of the lines."""
        return self._answers

    def can_undo(self, line: int) -> bool:
        """Whether nothing was said since of the images of an answer."""
        answer = self._answers.get(line)
        return answer is not None and all(
            self._given[image][-1].line == line for image in (*answer.images, *answer.taken_away)
        )

    def labels(self) -> dict[str, str]:
        """Label by image, in the order in which they were given."""
        found = [(given.line, image, str(given.label)) for image, given in self.answered() if given.answer == "label"]
        return {image: label for _, image, label in sorted(found, key=lambda one: one[0])}

    def counts(self) -> Counter[str]:
        """Labels by class."""
        return Counter(str(given.label) for _, given in self.answered() if given.answer == "label")

    def answered(self) -> Iterator[tuple[str, Given]]:
        """(image, what counts of it) of every image of which anything counts."""
        return ((image, given[-1]) for image, given in self._given.items() if given)

    def _answer(self, line: int, entry: Answer) -> None:
        self._answers[line] = entry
        if entry.answer == "label":
            self.said |= {(image, str(entry.label)) for image in entry.images}
        for image in entry.images:
            self._given.setdefault(image, []).append(Given(line, entry.answer, entry.label))
            self._revisions[image] = line
        for image in entry.taken_away:
            self._given.setdefault(image, []).append(Given(line, "not", entry.label))
            self._revisions[image] = line

    def _undo(self, line: int, entry: Undo) -> None:
        if not self.can_undo(entry.undone):
            raise ValueError(f"line {entry.undone} is no answer that can be taken back")
        answer = self._answers.pop(entry.undone)
        for image in (*answer.images, *answer.taken_away):
            self._given[image].pop()
            self._revisions[image] = line

    def _rename(self, entry: Rename) -> None:
        for given in self._given.values():
            given[:] = [replace(one, label=entry.new) if one.label == entry.old else one for one in given]
        self.said = {(image, entry.new if label == entry.old else label) for image, label in self.said}
        self.renamed = {old: entry.new if new == entry.old else new for old, new in self.renamed.items()}
        self.renamed[entry.old] = entry.new
        self.renamed.pop(entry.new, None)
        self.added = [*dict.fromkeys(entry.new if name == entry.old else name for name in self.added)]
