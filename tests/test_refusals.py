from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from refusals import named, refuses

from dhox.cli.main import main
from dhox.data.items import label_of_number
from dhox.errors import DhoxError, UsageError

AT = "data.items.label_of_number"


def out_of_range() -> None:
    label_of_number(5, ["a", "b"], "x.tar")


def elsewhere() -> None:
    raise DhoxError("x.tar has 5.", "Mend it.")


@pytest.mark.parametrize("at", [AT, "data.items"])
def test_a_refusal_is_told_by_class_place_and_facts(at: str) -> None:
    with refuses("x.tar", 5, at=at) as caught:
        out_of_range()
    assert isinstance(caught.value, DhoxError)
    with refuses("--method", "foo", at="distill.options", kind=UsageError):
        main(["distill", "x", "--method", "foo"])


@pytest.mark.parametrize(
    ("call", "wanted", "said"),
    [
        (out_of_range, refuses("x.tar", 6, at=AT), "[6] not named"),
        (out_of_range, refuses(5, at=AT, fix="--labels"), "['--labels'] not named"),
        (out_of_range, refuses(5, at="data.items.label"), AT),
        (out_of_range, refuses(5, at="data.item"), AT),
        (out_of_range, refuses(5, at=AT, kind=UsageError), "DhoxError("),
        (elsewhere, refuses("x.tar", 5, at=AT), "at []"),
        (lambda: main(["distill", "x", "--method", "foo"]), refuses("foo", at="distill.options"), "UsageError("),
        (lambda: main(["nonsense"]), refuses(at="cli"), "No such command"),
    ],
)
def test_another_refusal_is_not_taken_for_it(
    call: Callable[[], None], wanted: AbstractContextManager, said: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)), wanted:
        call()


def test_a_fact_is_a_whole_name() -> None:
    assert all(named(fact, "a/b.png, '--batch 5': [1, 2]") for fact in ("b.png", "--batch", 5, "[1, 2]", "a/b.png"))
    assert not any(named(fact, "b.png.tmp --batch-labelled 0.5 15 5.1") for fact in ("b.png", "--batch", "png", 5))
