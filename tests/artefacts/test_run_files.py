"""run.json, selection.json, val.npz, test.npz, metrics.csv: read back as written, refused where damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from damage import every_array_is_checked, every_field_is_checked
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses
from run_example import example_logits, example_run, write_run

from dhox.artefacts.arrays import read_arrays, write_arrays
from dhox.artefacts.common import Accuracy, StudentSpec
from dhox.artefacts.files import RUN_FILE, RUN_SCHEMA, sha256
from dhox.artefacts.logits import TEST_FILE, VAL_FILE, Logits
from dhox.artefacts.metrics import (
    GRADIENTS_FILE,
    METRICS_FILE,
    GradientRow,
    Metrics,
    read_gradients,
    read_metrics,
    write_gradients,
    write_rows,
)
from dhox.artefacts.record import read_record, schema_of, write_record
from dhox.artefacts.run import Imported, Run, RunState, read_run
from dhox.artefacts.run_directory import open_run
from dhox.artefacts.selection import SELECTION_FILE, Selection
from dhox.distill.results.outcome import select
from dhox.distill.results.retune import retune
from dhox.distill.small_options import Chosen
from dhox.errors import DhoxError, UsageError


def hashes(run: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in run.iterdir()}


def full_logits(n: int, classes: int) -> Logits:
    """Logits with every array that there can be."""
    answers = np.arange(n) % classes
    unlabelled = example_logits(9, classes)
    return example_logits(
        n, classes, teacher_predictions=answers, teacher_logits=np.zeros((n, classes), np.float32),
        z_norms=np.ones(n, np.float32), kd_bias=np.zeros(classes, np.float32),
        unlabelled_ce_logits=unlabelled.ce_logits, unlabelled_kd_logits=unlabelled.kd_logits,
        unlabelled_z_norms=np.ones(9, np.float32), unlabelled_teacher_predictions=np.arange(9) % classes,
    )  # fmt: skip


def test_a_run_is_read_back_as_written(tmp_path: Path) -> None:
    assert schema_of(Run) == schema_of(RunState) == RUN_SCHEMA
    imported = Imported("/c.pt", "0" * 64, {"alpha": 0.5})
    run = example_run(
        StudentSpec("open_clip:X", 32, 2, True, "cosine-code", {"embed_dim": 8}), ["a", "b"], 3, 4,
        settings={"shots": 16, "template": ["a {}"], "alpha": None, "online": False, "rate": 1e-3}, imported=imported,
    )  # fmt: skip
    write_record(tmp_path / RUN_FILE, run)
    assert read_run(tmp_path) == run
    assert read_record(tmp_path / RUN_FILE, RunState) == RunState(status="complete", settings=run.settings)


def test_every_field_of_a_run_is_checked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    path = run / RUN_FILE
    assert every_field_is_checked(path, read_run(run), lambda: open_run(run)) > 70


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"classes": []}, ("record.decode", RUN_FILE, "classes")),
        ({"classes": [{"id": 1, "name": "a", "prompt": "a"}] * 3}, ("common.check_classes", RUN_FILE, "ids")),
        ({"classes": [{"id": i, "name": "a", "prompt": ""} for i in range(3)]}, ("common", RUN_FILE, "name")),
        ({"classes": [{"id": i, "name": str(i), "prompt": ""} for i in range(2)]}, ("run", RUN_FILE, 3, 2)),
        ({"method": "sho"}, ("run.__post_init__", RUN_FILE, "sho", "two_heads")),
        ({"status": "running"}, ("run.read_run", "r")),
        ({"status": "diverged"}, ("run.read_run", "r")),
        ({"status": "done"}, ("record.decode", RUN_FILE, "status", "'done'")),
        ({"schema": "dhox.run/9"}, ("record.check_schema", RUN_FILE, "'dhox.run/9'", "'dhox.run/1'")),
    ],
)
def test_fields_that_contradict_each_other_are_named(tmp_path: Path, change: dict, named: tuple) -> None:
    path = write_run(tmp_path / "r") / RUN_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with refuses(*named[1:], at=f"artefacts.{named[0]}"):
        open_run(tmp_path / "r")


def test_what_is_no_run_is_told_from_an_unfinished_one(tmp_path: Path) -> None:
    with refuses("r", "exist", at="artefacts.run.read_run", kind=UsageError):
        open_run(tmp_path / "r")
    (tmp_path / "r.partial").mkdir()
    write_record(tmp_path / "r.partial" / RUN_FILE, RunState(status="running"))
    with refuses("r.partial", at="artefacts.run.read_run", fix="dhox distill"):
        open_run(tmp_path / "r")


def test_every_field_of_a_selection_is_checked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", n_validation=80)
    path = run / SELECTION_FILE
    searched = select(read_arrays(run / VAL_FILE, Logits), "val", True, "balanced")
    write_record(path, searched)
    assert read_record(path, Selection) == searched
    assert every_field_is_checked(path, searched, lambda: open_run(run)) > 25
    unsearched = select(full_logits(80, 3), "val", True, "accuracy", fixed=(0.3, 0.7))
    write_record(path, unsearched)
    assert read_record(path, Selection) == unsearched
    assert every_field_is_checked(path, unsearched, lambda: open_run(run)) > 35


@pytest.mark.parametrize(("n", "classes"), [(0, 2), (1, 1), (20, 5)])
def test_logits_are_read_back_as_written(tmp_path: Path, n: int, classes: int) -> None:
    for logits in (example_logits(n, classes), full_logits(n, classes)):
        write_arrays(tmp_path / VAL_FILE, logits)
        again = read_arrays(tmp_path / VAL_FILE, Logits, C=classes, N=n)
        for field in dataclasses.fields(Logits):
            written, read = getattr(logits, field.name), getattr(again, field.name)
            assert (written is None) == (read is None), field.name
            assert written is None or np.array_equal(written, read), field.name


def test_every_array_of_a_run_is_checked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    write_arrays(run / VAL_FILE, full_logits(60, 3))
    assert every_array_is_checked(run / VAL_FILE, full_logits(60, 3), lambda: open_run(run)) > 60
    test = full_logits(20, 3)
    write_arrays(run / TEST_FILE, test)
    assert every_array_is_checked(run / TEST_FILE, test, lambda: open_run(run).test) > 60


def test_logits_of_another_run_are_refused(tmp_path: Path) -> None:
    run, other, train = (
        write_run(tmp_path / "r"),
        write_run(tmp_path / "other", classes=4),
        example_logits(60, 3, split="train"),
    )
    for change, fact in ((example_logits(60, 4), "C = 3"), (example_logits(59, 3), "N = 60"), (train, "names")):
        write_arrays(run / VAL_FILE, change)
        with refuses(VAL_FILE, fact, at="artefacts.run_directory" if change is train else "artefacts.arrays"):
            open_run(run)
    (other / TEST_FILE).unlink()
    opened = open_run(other)
    with refuses(TEST_FILE, "No such file", at="system.regular_file"):
        _ = opened.test
    selection = read_record(other / SELECTION_FILE, Selection)
    write_record(other / SELECTION_FILE, msgspec.structs.replace(selection, n_validation=7))
    with refuses(SELECTION_FILE, "n_validation", 7, 60, at="artefacts.run_directory.open_run"):
        open_run(other)


def test_retune_writes_nothing_where_something_is_damaged(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    for name in (SELECTION_FILE, VAL_FILE, TEST_FILE, RUN_FILE):
        whole = (run / name).read_bytes()
        for content in (b"", whole[: len(whole) // 2], whole.replace(b"alpha", b"alpho").replace(b"labels", b"lapels")):
            if content == whole:
                continue
            (run / name).write_bytes(content)
            before = hashes(run)
            with pytest.raises(DhoxError):
                retune(run)
            assert hashes(run) == before
        (run / name).write_bytes(whole)
    assert retune(run).summary.test


def test_a_run_without_a_test_split_has_no_test_logits_and_is_retuned(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", n_test=0)
    assert open_run(run).test is None
    result = retune(run, Chosen(alpha=0.1, beta=0.2))
    assert (result.summary.test, result.selection.alpha) == (None, 0.1)
    assert open_run(run).run.retuned_at is not None


METRICS = [[1, 2.5, 0.25, 1e-3, 0.5], [2, 1.5, 0.125, 1e-4, 0.75]]
COLUMNS = ["epoch", "ce_loss", "kd_loss", "learning_rate", "val_accuracy"]


def test_metrics_and_gradients_are_read_back_as_written(tmp_path: Path) -> None:
    write_rows(tmp_path / METRICS_FILE, COLUMNS, METRICS)
    columns = {name: [row[i] for row in METRICS] for i, name in enumerate(COLUMNS) if i}
    assert read_metrics(tmp_path / METRICS_FILE) == Metrics([1, 2], columns)
    rows = [GradientRow(0, "backbone", 0.5, -2.0, 1.0), GradientRow(4, "blocks.0", -1.0, 0.0, 0.0)]
    write_gradients(tmp_path / GRADIENTS_FILE, rows)
    assert read_gradients(tmp_path / GRADIENTS_FILE) == rows
    assert read_gradients(tmp_path / "none.csv") == []


def test_damaged_metrics_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    write_rows(path, COLUMNS, METRICS)
    whole = path.read_text()
    damaged = ["", "\0" * 40, "epoch\n1\n", whole.splitlines()[0] + "\n", whole[: whole.rindex(",")], whole + "\n3,1"]
    damaged += [whole.replace("2.5", text) for text in ("nan", "inf", "x", "", '"')]
    damaged += [whole.replace("\n2,", f"\n{text},") for text in ("1", "3", "2.5", "-2", "")]
    damaged += [whole.replace("kd_loss", "ce_loss"), whole.replace("val_accuracy", "epoch")]
    for text in damaged:
        path.write_text(text)
        with refuses(METRICS_FILE, at="artefacts.metrics"):
            read_metrics(path)
    path.write_bytes(b"\xff\xfe" + whole.encode())
    with refuses(METRICS_FILE, "utf-8", at="artefacts.metrics"):
        read_metrics(path)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_change_of_bytes_in_metrics_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("m") / METRICS_FILE
    write_rows(path, COLUMNS, METRICS)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(DhoxError):
        metrics = read_metrics(path)
        assert {len(column) for column in metrics.columns.values()} == {len(metrics.epochs)}


@given(n=st.integers(0, 50), data=st.data())
def test_accuracies_are_shares_inside_their_interval(n: int, data: st.DataObject) -> None:
    right = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    row = Accuracy.of(right)
    assert row.n == n
    assert row.correct == right.sum()
    assert 0 <= row.interval[0] <= row.accuracy <= row.interval[1] + 1e-12 <= 1 + 1e-12
