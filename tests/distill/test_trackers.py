"""`--log`: epochs in MLflow (in local files) and in Weights & Biases (offline), through their own clients."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import call
from plain_files import read_json
from quick_distill import QUICK, quick
from refusals import refuses

import dhox
import dhox.distill.training.train as train_module
from dhox.artefacts.metrics import read_metrics
from dhox.distill.training.metrics_log import MetricsLog
from dhox.distill.training.trackers import Subject
from dhox.errors import UsageError

NO_MLFLOW = "no mlflow with a database here (pip install 'dhox[mlflow]')"
NO_WANDB = "no wandb here (pip install 'dhox[wandb]')"
CASE: dict[str, Any] = {"shots": 4, "epochs": 3}
BLOCK, HEAD = 32768, struct.Struct("<IHB")  # of a .wandb file: LevelDB's log, behind 7 bytes


class KilledError(Exception):
    """Stands for the process dying."""


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a store in the working folder."""
    module = pytest.importorskip("mlflow", reason=NO_MLFLOW)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{Path('mlruns').absolute()}")
    return module.MlflowClient()


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client, which writes into the working folder."""
    module = pytest.importorskip("wandb", reason=NO_WANDB)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DISABLE_CODE", "true")
    yield module
    module.teardown()  # it keeps the folder in which it was first used


def killed_after_an_epoch(data: Path, monkeypatch: pytest.MonkeyPatch, log: str) -> None:
    """A training that ends before its second epoch does."""
    real = train_module.learning_rate_at
    steps: set[int] = set()

    def learning_rate_at(step: int, total: int, *rest: Any) -> float:
        steps.add(step)
        if step > total // 3:
            raise KilledError
        return real(step, total, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "learning_rate_at", learning_rate_at)
        with pytest.raises(KilledError):
            quick(data, log=log, **CASE)


def of_mlflow(client: Any, id: str) -> dict[str, list[tuple[int, float]]]:
    """(epoch, value) of every metric of a run."""
    names = client.get_run(id).data.metrics
    return {name: [(one.step, one.value) for one in client.get_metric_history(id, name)] for name in names}


def of_wandb() -> Iterator[Any]:
    """The records of all offline runs, in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(Path("wandb").glob("offline-run-*/*.wandb")):
        content, at, held = path.read_bytes(), 7, b""
        while at + HEAD.size <= len(content):
            if BLOCK - at % BLOCK < HEAD.size:
                at += BLOCK - at % BLOCK
                continue
            _, size, kind = HEAD.unpack_from(content, at)
            held += content[at + HEAD.size : at + HEAD.size + size]
            at += HEAD.size + size
            if kind in (1, 4):  # whole, or its last part
                yield Record.FromString(held)
                held = b""


def history() -> list[dict[str, float]]:
    """The rows that were logged to Weights & Biases."""
    rows = [record.history.item for record in of_wandb() if record.WhichOneof("record_type") == "history"]
    return [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in items} for items in rows]


def test_mlflow_gets_settings_epochs_and_results(line: Path, mlflow: Any) -> None:
    summary = quick(line / "data", log="mlflow,csv", **CASE).summary
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("dhox").experiment_id])
    assert run.info.run_id == read_json(Path("runs/x/trackers.json"))["mlflow"]["id"]
    assert (run.info.run_name, run.info.status) == ("runs/x", "FINISHED")
    assert run.data.params["shots"] == "4"
    assert run.data.params["student"] == QUICK["student"]
    logged, metrics = of_mlflow(mlflow, run.info.run_id), read_metrics(Path("runs/x/metrics.csv"))
    for name, values in metrics.columns.items():
        assert [epoch for epoch, _ in logged[name]] == [1, 2, 3]
        assert [value for _, value in logged[name]] == pytest.approx(values, rel=1e-5)
    assert {row.stage: row.accuracy for row in summary.test or []} == {
        name.removeprefix("test_"): values[0][1] for name, values in logged.items() if name.startswith("test_")
    }
    assert not Path("runs/x/tensorboard").exists()


@pytest.mark.slow
def test_wandb_gets_settings_epochs_and_results(line: Path, wandb: Any) -> None:
    summary = quick(line / "data", log="wandb", **CASE).summary
    rows, metrics = history(), read_metrics(Path("runs/x/metrics.csv"))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for name, values in metrics.columns.items():
        assert [row[name] for row in rows] == pytest.approx(values, rel=1e-5)
    records = list(of_wandb())
    (run,) = {record.run.run_id for record in records if record.WhichOneof("record_type") == "run"}
    assert run == read_json(Path("runs/x/trackers.json"))["wandb"]["id"]
    (first, *_) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (first.project, first.display_name) == ("dhox", "runs/x")
    assert "4" in {item.value_json for item in first.config.update if item.key == "shots"}
    ended = {
        item.key or item.nested_key[0]: item.value_json
        for record in records if record.WhichOneof("record_type") == "summary" for item in record.summary.update
    }  # fmt: skip
    for row in summary.test or []:
        assert json.loads(ended[f"test_{row.stage}"]) == row.accuracy
    assert [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"] == [0]


def test_a_resumed_training_goes_on_in_the_same_runs(
    line: Path, mlflow: Any, wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_an_epoch(line / "data", monkeypatch, "mlflow,wandb")
    time.sleep(1)  # the names of offline runs count seconds
    before = read_json(Path("runs/x.partial/trackers.json"))
    assert (before["mlflow"]["epochs"], before["wandb"]["epochs"]) == (1, 1)
    id = before["mlflow"]["id"]
    assert mlflow.get_run(id).info.status == "FAILED"
    quick(line / "data", resume=True, log="mlflow,wandb", **CASE)
    after = read_json(Path("runs/x/trackers.json"))
    assert [after[name]["id"] for name in ("mlflow", "wandb")] == [before[name]["id"] for name in ("mlflow", "wandb")]
    assert mlflow.get_run(id).info.status == "FINISHED"
    assert [epoch for epoch, _ in of_mlflow(mlflow, id)["ce_loss"]] == [1, 2, 3]
    assert [row["epoch"] for row in history()] == [1, 2, 3]
    assert {record.run.run_id for record in of_wandb() if record.WhichOneof("record_type") == "run"} == {
        after["wandb"]["id"]
    }


def test_a_resumed_training_may_be_logged_elsewhere(line: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after_an_epoch(line / "data", monkeypatch, "csv")
    quick(line / "data", resume=True, log="mlflow", **CASE)
    id = read_json(Path("runs/x/trackers.json"))["mlflow"]["id"]
    assert [epoch for epoch, _ in of_mlflow(mlflow, id)["ce_loss"]] == [1, 2, 3]


def test_a_tool_that_fails_costs_no_training(mlflow: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with MetricsLog(Subject(tmp_path, "x", {}), ("mlflow", "tensorboard")) as log:
        log.add(1, {"ce_loss": 1.0})
        mlflow.delete_run(read_json(tmp_path / "trackers.json")["mlflow"]["id"])
        log.add(2, {"ce_loss": 0.5})
        log.add(3, {"ce_loss": 0.25})
    assert capsys.readouterr().out.count("Warning: --log mlflow") in {1, 2}  # of the second epoch, and of the end
    assert read_json(tmp_path / "trackers.json")["mlflow"]["epochs"] == 1
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == ["1,1", "2,0.5", "3,0.25"]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_server_that_is_not_there_is_told_before_training(
    line: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with refuses("mlflow", at="distill.training.trackers.told", fix="--log"):
        quick(line / "data", log="mlflow", **CASE)
    assert not Path("runs/x").exists()


def test_unknown_names_are_refused_before_data_is_read() -> None:
    with refuses("--log", "comet", at="distill.options", fix="wandb", kind=UsageError):
        dhox.distill("nowhere", log="csv,comet")  # type: ignore[operator]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_client_is_told_before_data_is_read(name: str) -> None:
    code = "import sys; sys.modules[sys.argv[1]] = None; from dhox.cli.main import main; main(['distill', 'nowhere', '--log', sys.argv[1]])"
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"pip install 'dhox[{name}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_wandb_without_an_account_is_told_before_data_is_read(wandb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WANDB_MODE", "online"), ("HOME", str(Path().absolute())), ("NETRC", "none")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    done = call("distill", "nowhere", "--log", "wandb", timeout=100)
    assert done.returncode == 1
    assert "WANDB_MODE=offline" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_mlflow_in_its_own_database(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("mlflow", reason=NO_MLFLOW)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path('mlflow.db').absolute()}")
    quick(line / "data", log="mlflow", **CASE)
    client = module.MlflowClient()
    assert [
        epoch for epoch, _ in of_mlflow(client, read_json(Path("runs/x/trackers.json"))["mlflow"]["id"])["ce_loss"]
    ] == [1, 2, 3]
