from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from plain_files import read_json, write_json, write_npz
from run_example import rehash

from dhox.artefacts.arrays import read_npz
from dhox.artefacts.files import sha256
from dhox.artefacts.record import read_record
from dhox.artefacts.run import read_run
from dhox.artefacts.selection import Selection
from dhox.distill.results.retune import retune
from dhox.distill.small_options import Chosen
from dhox.errors import DhoxError
from dhox.evidence.dho_inference import dho_probs


def files(run: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in run.iterdir() if path.is_file()}


def test_the_same_question_gets_the_same_answer(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    before = {name: read_json(run / name) for name in ("run.json", "selection.json")}
    result = retune(run)
    assert result.selection == read_record(run / "selection.json", Selection)
    assert result.summary == read_run(run)
    assert json.loads((run / "selection.json").read_text()) == before["selection.json"]
    again = json.loads((run / "run.json").read_text())
    assert again.pop("retuned_at") > before["run.json"].pop("finished_at")
    assert before["run.json"].pop("retuned_at") is None
    again.pop("finished_at")
    assert again == before["run.json"]


def test_given_values_move_the_dho_row_and_nothing_else(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    before, old = files(run), read_json(run / "run.json")
    result = retune(run, Chosen(alpha=1.0, beta=2.0))
    assert result.selection.source == "given"
    changed = {name for name, digest in files(run).items() if before.get(name) != digest}
    assert changed == {"run.json", "selection.json"}
    new = read_json(run / "run.json")
    rows = {row["stage"]: row for row in new["test"]}
    assert rows["dho"]["correct"] == rows["ce_head"]["correct"]
    assert [row for row in new["test"] if row["stage"] != "dho"] == [
        row for row in old["test"] if row["stage"] != "dho"
    ]
    back = retune(run)
    assert back.before == (1.0, 2.0)
    assert read_json(run / "run.json")["test"] == old["test"]


def test_test_labels_choose_nothing(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    chosen = retune(run).selection
    test = read_npz(run / "test.npz")

    write_npz(run / "test.npz", **test | {"labels": (test["labels"] + 1) % 4})
    rehash(run)
    again = retune(run)
    assert again.selection == chosen
    right = dho_probs(test["ce_logits"], test["kd_logits"], chosen.alpha, chosen.beta).argmax(-1)
    assert again.summary.test[-1].correct == (right == (test["labels"] + 1) % 4).sum()


def test_another_metric_searches_again(own_line: Path) -> None:
    result = retune(own_line / "runs/tiny", Chosen(metric="macro-f1"))
    assert (result.selection.metric, result.selection.searched) == ("macro-f1", True)
    assert retune(own_line / "runs/tiny").selection.metric == "macro-f1"


def test_what_is_no_complete_run_of_two_heads_is_refused_and_untouched(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    summary = read_json(run / "run.json")
    for change, message in (
        ({"method": "ce", "student": summary["student"] | {"two_heads": False}}, "method ce"),
        ({"status": "running"}, "interrupted"),
        ({"schema": "dhox.run/9"}, "schema 'dhox.run/9'"),
    ):
        write_json(run / "run.json", summary | change)
        before = files(run)
        with pytest.raises(DhoxError, match=message):
            retune(run)
        assert files(run) == before
    with pytest.raises(DhoxError, match="run directory"):
        retune(own_line)


def test_a_full_disk_leaves_both_old_files(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = own_line / "runs/tiny"
    before = files(run)
    synced: list[int] = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DhoxError, match="No space left"):
        retune(run, Chosen(alpha=1.0, beta=2.0))
    assert files(run) == before
