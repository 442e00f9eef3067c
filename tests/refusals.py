"""What a refusal means, whatever its words: its class, the function that raised it, what it names, what it advises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

import pytest

from dhox.errors import DhoxError


def named(fact: object, text: str) -> bool:
    """Whether `text` holds `fact` as a whole name: `--batch` is not in `--batch-labelled`, nor 5 in 0.5 or 15."""
    fact = str(fact)
    before = r"(?<![\w-])(?<!\w[.,])" if re.match(r"[\w-]", fact) else ""
    after = r"(?![\w-])(?![.,]\w)" if re.search(r"\w\Z", fact) else ""
    return bool(re.search(before + re.escape(fact) + after, text))


def places(error: BaseException | None) -> Iterator[str]:
    """The innermost function of dhox, as `data.coop.read_coop`, of an error and of what it was raised from."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)  # `raise err from err` is its own cause
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        named = [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame in frames]
        yield from [f"{module[5:]}.{name}" for module, name in named if module[:5] == "dhox." and name[0] != "<"][-1:]
        error = error.__cause__


@contextmanager
def refuses(
    *facts: object, at: str, fix: str | tuple[object, ...] = (), kind: type[DhoxError] = DhoxError
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """The block must raise exactly `kind`, in the function or module `at`; its reason must name every fact, its fix all
    of `fix`. A command must exit with the code of that error."""
    with pytest.raises((DhoxError, SystemExit)) as caught:
        yield caught
    error = caught.value
    if isinstance(error, SystemExit):
        code, error = error.code, error.__context__
        assert code == getattr(error, "exit_code", None), repr(error)
    found = list(places(error))
    assert type(error) is kind, repr(error)
    assert any(f"{place}.".startswith(f"{at}.") for place in found), f"{error!r} at {found}"
    for wanted, text in ((facts, error.reason), ((fix,) if isinstance(fix, str) else fix, error.fix)):
        missing = [fact for fact in wanted if not named(fact, text)]
        assert not missing, f"{missing} not named in: {text}"
