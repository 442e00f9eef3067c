"""What disk and memory cannot hold is told before a training, on both sides of the boundary."""

from __future__ import annotations

from pathlib import Path

import pytest
from quick_distill import quick
from refusals import refuses

from dhox.data.dataset import Item
from dhox.distill.dry_run import plan
from dhox.distill.images.sets import Sets
from dhox.distill.options import DistillOptions
from dhox.distill.results.room import check_room
from dhox.distill.teachers.targets import WholeSets
from dhox.options.declare import build

HERE = "dhox.distill.results.room"


def items(n: int, split: str) -> list[Item]:
    return [Item("", f"{split}/{i:04d}") for i in range(n)]


def test_logits_that_fit_and_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = Sets(items(2, "train"), [], items(5, "val"), items(7, "test"), "val")
    whole = WholeSets(sets.validation, sets.test, items(3, "unlabelled"))
    need = 4 * 100_000 * (3 * 5 + 2 * (7 + 3))
    for what in ("free_bytes", "available_memory"):
        monkeypatch.setattr(f"{HERE}.free_bytes", lambda place: 10 * need)
        monkeypatch.setattr(f"{HERE}.available_memory", lambda: None)
        monkeypatch.setattr(f"{HERE}.{what}", lambda *place: need)
        check_room(sets, whole, 100_000, Path("runs/x"))
        monkeypatch.setattr(f"{HERE}.{what}", lambda *place: need - 1)
        with refuses("5 validation", "7 test", "3 unlabelled", "100,000", at=f"{HERE[5:]}.check_room", fix="test"):
            check_room(sets, whole, 100_000, Path("runs/x"))


def test_names_that_run_json_can_hold_and_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = Sets(items(6, "train"), [], items(4, "val"), [], "val")
    whole = WholeSets(sets.validation, [], [])
    size = 6 * (len("train/0000") + 12) + 4 * (len("val/0000") + 12)
    monkeypatch.setattr(f"{HERE}.LARGEST_JSON", size)
    check_room(sets, whole, 2, Path("runs/x"))
    monkeypatch.setattr(f"{HERE}.LARGEST_JSON", size - 1)
    with refuses(6, 4, size, at=f"{HERE[5:]}.check_room", fix=("--shots", "--label-fraction")):
        check_room(sets, whole, 2, Path("runs/x"))


def test_a_training_and_its_plan_stop_before_they_begin(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = build(DistillOptions, teacher="not loaded/at all", student="test_resnet", shots=4)
    monkeypatch.setattr(f"{HERE}.available_memory", lambda: 1000)
    with refuses("80 validation", "48 test", at=f"{HERE[5:]}.check_room"):
        plan(line / "data", Path("runs/x"), options)
    with refuses("80 validation", "48 test", at=f"{HERE[5:]}.check_room"):
        quick(line / "data", shots=4)
    assert not list(Path("runs").glob("x*"))
    assert not list(Path().rglob("*.safetensors"))
