from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest
from refusals import named, refuses

from dhox.cli.main import main
from dhox.data.items import label_of_number
from dhox.errors import DhoxError, UsageError

AT = "data.items.label_of_number"
CLASS_5 = partial(label_of_number, 5, ["a", "b"], "x.tar")
METHOD, COMMAND = partial(main, ["distill", "x", "--method", "foo"]), partial(main, ["nonsense"])


def elsewhere() -> None:
    raise DhoxError("x.tar has 5.", "Mend it.")


def test_a_refusal_is_told_by_class_place_and_facts() -> None:
    for at in (AT, "data.items"):
        with refuses("x.tar", 5, at=at) as caught:
            CLASS_5()
        assert isinstance(caught.value, DhoxError)
    with refuses("--method", "foo", at="distill.options", kind=UsageError):
        METHOD()


@pytest.mark.parametrize(
    ("call", "wanted", "said"),
    [
        (CLASS_5, refuses("x.tar", 6, at=AT), "[6] not named"),
        (CLASS_5, refuses(5, at=AT, fix="--labels"), "['--labels'] not named"),
        (CLASS_5, refuses(5, at="data.items.label"), AT),
        (CLASS_5, refuses(5, at="data.item"), AT),
        (CLASS_5, refuses(5, at=AT, kind=UsageError), "DhoxError("),
        (elsewhere, refuses("x.tar", 5, at=AT), "at []"),
        (METHOD, refuses("foo", at="distill.options"), "UsageError("),
        (COMMAND, refuses(at="cli", kind=UsageError), "No such command"),
    ],
)
def test_another_refusal_is_not_taken_for_it(call: Callable, wanted: AbstractContextManager, said: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)), wanted:
        call()


def test_a_fact_is_a_whole_name() -> None:
    assert all(named(fact, "a/b.png, '--batch 5': [1, 2]") for fact in ("b.png", "--batch", 5, "[1, 2]", "a/b.png"))
    assert not any(named(fact, "b.png.tmp --batch-labelled 0.5 15 5.1") for fact in ("b.png", "--batch", "png", 5))
