"""The students that are known to go through the whole line, and the nearest of them to one that does not."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec

LIST_FILE = Path(__file__).with_name("known_students.json")
CHOOSE_ANOTHER = "Choose another student."  # where nothing says which
KIN = 0.8  # the least similarity (difflib's ratio) of the names of two families that are akin: resnet, resnext
TINY = "test_"  # timm's students for tests, which nobody should be advised to train


class KnownStudent(msgspec.Struct, frozen=True, order=True):
    """A student that was distilled, exported to fp16, built by TensorRT-RTX and measured.

    A timm architecture, its input in pixels, and the parameters of its backbone in millions.
    """

    name: str
    pixels: int
    parameters_m: float


@dataclass(frozen=True)
class Verdict:
    """Whether a student can be exported, in words, and the seconds that it took to find out."""

    words: str
    seconds: float = 0.0


@cache
def known_students() -> tuple[KnownStudent, ...]:
    """The list that dhox ships; `python benchmarks/families.py ROWS.jsonl --write` writes it from what it measured."""
    return msgspec.json.decode(LIST_FILE.read_bytes(), type=tuple[KnownStudent, ...])


def is_known(name: str, pixels: int | None) -> bool:
    """Whether a student is in the list at this very size; a tag of weights (`resnet18.a1_in1k`) does not matter."""
    return any((known.name, known.pixels) == (architecture(name), pixels) for known in known_students())


def nearest(name: str, pixels: int, parameters_m: float, known: tuple[KnownStudent, ...]) -> KnownStudent | None:
    """The one of `known` that may best stand for a student that does not work at `pixels`; None where there is none.

    The same student at another size first, then its family, then a family of a similar name, then any; among these the
    one whose number of parameters has the least ratio to `parameters_m` (above 0), then the nearest size. timm's
    students for tests stand for each other alone.
    """
    own = architecture(name)
    alike = [one for one in known if one.name.startswith(TINY) == own.startswith(TINY)]
    others = [one for one in alike if (one.name, one.pixels) != (own, pixels)]

    def distance(one: KnownStudent) -> tuple[int, float, int, str]:
        size = abs(math.log(max(one.parameters_m, 0.01) / parameters_m))
        return _strangeness(own, one.name), size, abs(one.pixels - pixels), one.name

    return min(others, key=distance, default=None)


def _strangeness(name: str, other: str) -> int:
    """0 of the same student, 1 within a family, 2 between families of similar names, 3 between others."""
    if name == other:
        return 0
    families = family(name), family(other)
    if families[0] == families[1]:
        return 1
    return 2 if difflib.SequenceMatcher(None, *families).ratio() >= KIN else 3


def architecture(name: str) -> str:
    """The name of a timm model without the tag of its weights; OpenCLIP's names as they are."""
    return name if ":" in name else name.split(".")[0]


def family(name: str) -> str:
    """What a name begins with, up to its version, number or underscore: mobilenet of mobilenetv3_large_100."""
    plain = name.removeprefix("open_clip:").lower().removeprefix("tf_").removeprefix(TINY)
    found = re.match(r"([a-z]+?)(?:v?\d|[^a-z]|$)", plain)
    return found[1] if found else plain


def choose_another(name: str, pixels: int, parameters_m: float) -> str:
    """The advice where a student cannot be exported: the nearest one that is known to work."""
    found = nearest(name, pixels, parameters_m, known_students())
    if found is None:
        return CHOOSE_ANOTHER
    return (
        f"{CHOOSE_ANOTHER[:-1]}: the nearest that is known to work is {found.name} "
        f"({found.parameters_m:g} M parameters, measured at {found.pixels} pixels)."
    )
