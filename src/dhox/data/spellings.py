"""One class name in two spellings: the same text to a reader and other characters to a program."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from dhox.errors import DhoxError


def check_spellings(places: Mapping[str, Iterable[str | None]]) -> None:
    """Raise DhoxError where two labels differ only in how Unicode composes their letters. `places`: labels by where
    they stand."""
    found: dict[str, tuple[str, str]] = {}
    for place, labels in places.items():
        for label in sorted({label for label in labels if label is not None}):
            first, where = found.setdefault(unicodedata.normalize("NFC", label), (label, place))
            if first != label:
                raise DhoxError(
                    f"The class {label} is spelled in two ways that look alike: {_spelled(first)} in {where} and "
                    f"{_spelled(label)} in {place}.",
                    "Rename one, so that both are the same characters (macOS writes NFD, most others NFC).",
                )


def _spelled(label: str) -> str:
    """`'Caf\\xe9' (NFC)`."""
    form = next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, label)), "mixed")
    return f"{label!a} ({form})"
