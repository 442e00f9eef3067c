"""Work on many files by threads, a part of them at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
AT_A_TIME = 4096  # a call that waits takes more memory than all that is known of an image


def in_threads(work: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    """work(item) of every item in order, by as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(items), AT_A_TIME):
            yield from pool.map(work, items[start : start + AT_A_TIME])
