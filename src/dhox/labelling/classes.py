"""The class list of a label page: where it comes from, and which new name may join it."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from dhox.artefacts.suggestions import Suggestion
from dhox.data.dataset import Splits, own_classes, read_class_file, shorten
from dhox.data.spellings import check_spellings
from dhox.errors import DhoxError
from dhox.labelling.state import State

LONGEST = 100  # characters of a new name
FOLDED = str.maketrans({"_": " ", "-": " "})


def listed_classes(data: Path, splits: Splits, class_file: Path | None, suggestions: list[Suggestion]) -> list[str]:
    """The labels to choose from: those of `--classes FILE`, else DATA's own and those of the guesses."""
    if class_file is not None:
        return [label for label, _ in read_class_file(class_file)]
    own = own_classes(data)
    known = {item.label for item in splits["train"] if item.label is not None}
    labels = [label for label, _ in own] if own is not None else sorted(known)
    guessed = {guess.label for suggestion in suggestions for guess in suggestion.guesses}
    return [*labels, *sorted(guessed - {*labels})]


def with_used(listed: list[str], state: State, class_file: Path | None, log: Path) -> list[str]:
    """The list, and what the log calls images beside it. Raises DhoxError where `--classes FILE` lacks one of those: it
    was renamed, or removed."""
    counts = state.counts()
    used = sorted(counts.keys() - {*all_classes(listed, state)})
    if not used:
        return listed
    check_spellings({str(class_file or "DATA"): listed, str(log): used})
    if class_file is None:
        return [*listed, *used]
    raise DhoxError(
        f"{log} has {counts[used[0]]} labels of {used[0]!r}, which is no class of {class_file}"
        f"{f' (nor are {shorten(used[1:])})' if used[1:] else ''}.",
        "If it was renamed: --rename OLD=NEW. Else add it to the list.",
    )


def all_classes(listed: list[str], state: State) -> list[str]:
    """The list, then what was added to it; a class that was renamed stands there under its new name alone."""
    return [*dict.fromkeys([*(state.renamed.get(label, label) for label in listed), *state.added])]


def checked_name(name: str, classes: list[str]) -> str:
    """A new class's name without blanks around it. Raises DhoxError where it cannot be one."""
    name = unicodedata.normalize("NFC", name.strip())
    if not name:
        raise DhoxError("A class needs a name.", "Type one.")
    if len(name) > LONGEST:
        raise DhoxError(f"The name has {len(name)} characters.", f"Use {LONGEST} at most.")
    if any(unicodedata.category(letter).startswith("C") for letter in name):
        raise DhoxError("The name holds a character that nobody sees.", "Type it again.")
    if "/" in name or "\\" in name or name in {".", ".."}:
        raise DhoxError(f"{name} cannot be the name of a folder.", "Leave out / and \\.")
    same = next((label for label in classes if folded(label) == folded(name)), None)
    if same is not None:
        raise DhoxError(f"{same} is a class already.", "Choose that one, or another name.")
    return name


def folded(name: str) -> str:
    """A name as a reader takes it: case, composition, - and _ make no difference."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().translate(FOLDED).split())


def key_classes(classes: list[str], state: State, count: int) -> list[str]:
    """The classes that get a key of their own: the most used ones, in the order of the list."""
    counts = state.counts()
    most = sorted(classes, key=lambda label: -counts[label])[:count]
    return [label for label in classes if label in set(most)]
