"""What a long step says: lines in a log file, a bar on a terminal, nothing with --quiet."""

from __future__ import annotations

import pytest
from rich.console import Console

from dhox import progress
from dhox.progress import LogLines, progress_bar, quietly, working


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(total: int | None, done: int = 0) -> tuple[LogLines, Clock, list[str]]:
    said: list[str] = []
    clock = Clock()
    return LogLines("Packing images", total, done, clock, said.append), clock, said


def test_a_log_file_has_a_line_for_every_tenth_or_thirty_seconds() -> None:
    lines, clock, said = lines_of(1000)
    for _ in range(100):  # 10 per second: a tenth takes 10 s
        clock.now += 1
        lines.advance(10)
    lines.end()
    assert len(said) == 10
    assert said[0] == "Packing images: 100 of 1,000, 10/s, 1:30 left"
    assert said[-1] == "Packing images: 1,000 of 1,000, 10/s, in 1:40"
    lines, clock, said = lines_of(100_000)
    for _ in range(90):
        clock.now += 1
        lines.advance(10)
    assert len(said) == 3
    assert said[-1] == "Packing images: 900 of 100,000, 10/s, 2:45:10 left"


def test_a_short_step_writes_nothing_and_a_slow_one_says_so() -> None:
    lines, clock, said = lines_of(10)
    for _ in range(10):
        clock.now += 0.2
        lines.advance(1)
    lines.end()
    assert said == []
    lines, clock, said = lines_of(10)
    clock.now = 40
    lines.advance(1)
    assert said == ["Packing images: 1 of 10, 0.0/s, 6:00 left"]


def test_what_an_earlier_process_did_is_no_rate_and_notes_stay() -> None:
    lines, clock, said = lines_of(1000, done=500)
    clock.now = 10
    lines.advance(100, "epoch 1 of 9, validation 70.0 %")
    clock.now = 20
    lines.advance(100)
    assert said == [
        "Packing images: 600 of 1,000, 10/s, 0:40 left, epoch 1 of 9, validation 70.0 %",
        "Packing images: 700 of 1,000, 10/s, 0:30 left, epoch 1 of 9, validation 70.0 %",
    ]


def test_without_a_total_there_is_no_time_left() -> None:
    lines, clock, said = lines_of(None)
    clock.now = 31
    lines.advance(62_000)
    assert said == ["Packing images: 62,000, 2,000/s, in 0:31"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    made = Console(force_terminal=True, width=100, record=True)
    monkeypatch.setattr(progress, "console", made)
    return made


def test_a_terminal_shows_a_bar_with_what_the_step_says(terminal: Console, capsys: pytest.CaptureFixture) -> None:
    with progress_bar("Training images", 40) as advance:
        advance(20, "epoch 1 of 2")
        advance(20, "epoch 2 of 2")
    shown = capsys.readouterr().out
    assert "Training images" in shown
    assert "40/40" in shown
    assert "epoch 2 of 2" in shown


def test_steps_inside_a_step_say_nothing(terminal: Console, capsys: pytest.CaptureFixture) -> None:
    with working("Outside"), progress_bar("Inside", 3) as advance, working("Deep inside"):
        advance(3)
    shown = capsys.readouterr().out
    assert "Outside" in shown
    assert "nside" not in shown.replace("Outside", "")
    assert not progress._quiet


def test_quiet_shows_nothing(terminal: Console, capsys: pytest.CaptureFixture) -> None:
    with quietly(), working("Loading"), progress_bar("Images", 3) as advance:
        advance(3)
    assert capsys.readouterr().out == ""
