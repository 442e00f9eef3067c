from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from dhox.bench.interrupts import STOPPING, stopping_signals


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """As in a shell, also where the tests run under nohup."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_interrupts_and_further_ones_are_ignored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stopping_signals() as stop:
        with pytest.raises(KeyboardInterrupt, match=number.name):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop.signal == number
        with pytest.raises(KeyboardInterrupt, match=number.name):  # whoever swallowed the first one
            stop.check()
    assert signal.getsignal(number) == before


def test_a_context_within_another_shares_its_stop() -> None:
    with stopping_signals() as first:
        with stopping_signals() as second:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                second.check()
        assert first.signal == signal.SIGTERM
    with stopping_signals() as third:
        third.check()


def test_a_bench_in_another_thread_sets_no_handlers() -> None:
    seen = []

    def work() -> None:
        with stopping_signals() as stop:
            stop.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
