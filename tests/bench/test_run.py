from __future__ import annotations

import csv
import json
import shutil
import threading
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dhox.artefacts.files import read_json, read_npz, write_npz
from dhox.bench.bench_models import open_subjects
from dhox.bench.rounds import FEWEST_ROUNDS, measure
from dhox.bench.run import BenchResult, bench
from dhox.bench.runners.runner import open_runner
from dhox.bench.runners.streams import stream_rows
from dhox.bench.timed_cells import samples_key
from dhox.errors import DhoxError
from dhox.evidence.statistics import percentile
from dhox.reports.bench.text import not_as_asked, not_measured
from dhox.runtimes.onnxruntime_session import OnnxSession


def rewrite_manifest(export: Path, **changes: object) -> None:
    manifest = json.loads((export / "manifest.json").read_text())
    (export / "manifest.json").write_text(json.dumps(manifest | changes))


def cells(content: dict[str, Any]) -> list[tuple[str, int, str]]:
    return [(row["subject"], row["batch"], row["scope"]) for row in content["latency"]]


def test_the_bench_directory_holds_the_contract(line: Path) -> None:
    folder = line / "runs/tiny/bench/here"
    content = read_json(folder / "bench.json", "dhox.bench/2")
    scopes = ("device", "e2e", "pipeline")
    assert sorted(cells(content)) == sorted(product(("fp32", "fp16"), (1, 8), scopes))
    samples = read_npz(folder / "samples.npz")
    for row in content["latency"]:
        taken = samples[row["samples"]]
        assert row["n"] == len(taken) == samples[f"{row['samples']}_rounds"].sum()
        assert row["rounds"] == len(samples[f"{row['samples']}_started_s"]) == FEWEST_ROUNDS
        for p in (50, 90, 95, 99):
            assert row["latency_ms"][f"p{p}"] == percentile(taken / 1e6, p)
        assert row["images_per_s"] == pytest.approx(row["batch"] * len(taken) / taken.sum() * 1e9)
        assert bool(row["emulated"]) == (row["subject"] == "fp16")
    assert {row["provider"] for row in content["runners"]} == {"CPUExecutionProvider"}
    assert all(row["passed"] for row in content["golden"])
    assert content["device"]["cpu_cores"] >= 1


def test_accuracy_is_that_of_the_predictions_and_of_torch(line: Path) -> None:
    folder = line / "runs/tiny/bench/here"
    content = read_json(folder / "bench.json", "dhox.bench/2")
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    for accuracy in content["accuracy"]["rows"]:
        mine = [row for row in rows if row["subject"] == accuracy["subject"]]
        assert len(mine) == accuracy["n"] == 48
        right = sum(row["label"] == row["predicted"] for row in mine)
        assert right == accuracy["correct"] == np.trace(accuracy["confusion"])
        assert np.sum(accuracy["confusion"]) == 48
        assert sum(row["n"] for row in accuracy["per_class"]) == 48
        assert sum(row["n"] * row["recall"] for row in accuracy["per_class"]) == pytest.approx(right)
    first, second = content["accuracy"]["rows"]
    assert first["reference"] is None
    assert second["reference"]["gained"] - second["reference"]["lost"] == second["correct"] - first["correct"]
    in_torch = {row["stage"]: row["correct"] for row in read_json(line / "runs/tiny/run.json", "dhox.run/1")["test"]}
    assert first["correct"] == in_torch["dho"]  # the fold is exact here


def quick(export: Path, out: str = "b", **options: Any) -> BenchResult:
    settings: dict[str, Any] = {"duration_s": 0.05, "energy_s": 0, "batches": (1,), "scopes": ("e2e",)}
    return bench([export], Path(out), **(settings | options))


def test_without_the_test_split_accuracy_is_not_run_and_says_so(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    rewrite_manifest(export, data="/nowhere")
    content = quick(export, scopes=("pipeline",)).content
    assert content["accuracy"]["rows"] == []
    assert content["accuracy"]["note"] == "not run: no test split at /nowhere. Give --data."
    assert content["settings"]["images"] == "the golden JPEG of the export"
    assert quick(export, "c", data=own_line / "data").content["accuracy"]["rows"][0]["n"] == 48
    with pytest.raises(DhoxError, match="--data missing does not exist"):
        quick(export, "d", data=Path("missing"))


def test_an_evaluation_set_without_images_or_with_other_labels_is_refused(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    (own_line / "data/test/bag").rename(own_line / "data/test/purse")
    with pytest.raises(DhoxError, match="outside the classes? .*purse|purse"):
        quick(export, data=own_line / "data")
    shutil.rmtree(own_line / "data/test")
    with pytest.raises(DhoxError, match=r"has no test images\. Put them into"):
        quick(export, data=own_line / "data")
    assert not Path("b").exists()


def test_several_models_are_measured_side_by_side(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    shutil.copytree(export, own_line / "runs/other/export")
    content = bench(
        [export / "model.onnx", own_line / "runs/other/export", export / "model.onnx"],
        Path("b"), precisions=("fp32",), duration_s=0.05, energy_s=0, batches=(2,), scopes=("e2e",),
    ).content  # fmt: skip
    assert [row["name"] for row in content["subjects"]] == ["tiny/fp32 #1", "other/fp32", "tiny/fp32 #2"]
    assert len(content["latency"]) == len(content["golden"]) == 3
    assert {row["correct"] for row in content["accuracy"]["rows"]} == {content["accuracy"]["rows"][0]["correct"]}
    with pytest.raises(DhoxError, match=r"heads\.npz is neither an export directory nor a model file"):
        bench([export / "heads.npz"], Path("c"))


def test_an_interrupted_bench_keeps_what_it_has(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def stop_at_the_second_batch(cells: Any, *arguments: Any) -> dict[Any, str]:
        opened.append(cells)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return measure(cells, *arguments)

    monkeypatch.setattr("dhox.bench.run.measure", stop_at_the_second_batch)
    content = quick(own_line / "runs/tiny/export", batches=(1, 2)).content
    assert content["status"] == "interrupted"
    assert {row["batch"] for row in content["latency"]} == {1}
    assert read_json(Path("b/bench.json"), "dhox.bench/2")["accuracy"]["rows"]


def test_rows_are_throttled_whose_batch_size_was(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = own_line / "root/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("7")
    monkeypatch.setenv("DHOX_SYSROOT", str(own_line / "root"))

    def hot_at_batch_2(cells: Any, *arguments: Any) -> dict[Any, str]:
        failed = measure(cells, *arguments)
        if cells[0].key[2] == 2:
            counter.write_text("8")
        return failed

    monkeypatch.setattr("dhox.bench.run.measure", hot_at_batch_2)
    content = quick(own_line / "runs/tiny/export", batches=(1, 2, 4), precisions=("fp32",)).content
    assert content["conditions"]["throttled"] == ["CPU temperature (package)"]
    assert [row["batch"] for row in content["latency"] if "throttled" in row["flags"]] == [2]


def test_a_changed_file_is_refused(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    content = bytearray((export / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (export / "model.onnx").write_bytes(content)
    with pytest.raises(DhoxError, match=r"model\.onnx is not the file that manifest\.json describes"):
        quick(export)
    (export / "model.onnx").unlink()
    with pytest.raises(DhoxError, match=r"model\.onnx is missing"):
        quick(export)
    assert not Path("b").exists()


def test_wrong_golden_outputs_fail(own_line: Path) -> None:
    from dhox.artefacts.files import sha256

    export = own_line / "runs/tiny/export"
    golden = read_npz(export / "golden.npz")
    write_npz(export / "golden.npz", **{**golden, "probs": np.roll(golden["probs"], 1, axis=-1)})
    files = json.loads((export / "manifest.json").read_text())["files"]
    rewrite_manifest(export, files=files | {"golden.npz": sha256(export / "golden.npz")})
    result = quick(export)
    assert not result.passed
    assert not any(row["passed"] for row in result.content["golden"])


def test_outputs_that_are_not_finite_fail_and_are_written(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = np.float32("nan")
    monkeypatch.setattr(OnnxSession, "infer", lambda self, batch: np.full((len(batch), 4), nan))
    result = quick(own_line / "runs/tiny/export")
    assert not result.passed
    assert {row["largest_difference"] for row in read_json(Path("b/bench.json"), "dhox.bench/2")["golden"]} == {None}


def n_measured(own_line: Path) -> int:
    result = quick(own_line / "runs/tiny/export", data=own_line / "data")
    n: int = result.content["accuracy"]["rows"][0]["n"]
    return n


def test_a_board_with_the_test_images_alone_measures_accuracy(own_line: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(own_line / f"data/{split}")
    assert n_measured(own_line) == 48


def test_test_images_that_training_skipped_are_left_out(own_line: Path) -> None:
    (own_line / "data/test/bag/bad.png").write_bytes(b"bad")
    with pytest.raises(DhoxError, match="bad.png cannot be read as an image"):
        n_measured(own_line)
    assert not Path("b").exists()
    rewrite_manifest(own_line / "runs/tiny/export", skipped=["test/bag/bad.png"])
    assert n_measured(own_line) == 48


def test_the_runner_answers_as_the_session_and_names_its_provider(line: Path) -> None:
    (subject,) = open_subjects([line / "runs/tiny/export/model.onnx"])
    golden = read_npz(line / "runs/tiny/export/golden.npz")
    with closing(open_runner(subject, "onnxruntime", "cpu")) as runner:
        assert (
            abs(
                subject.tensors.probs(runner.infer(subject.tensors.graph_input(golden["input"]))) - golden["probs"]
            ).max()
            < 1e-4
        )
        assert (runner.name, runner.facts.provider) == ("onnxruntime", "CPUExecutionProvider")


@pytest.mark.gpu
def test_cuda_gives_the_golden_outputs(line: Path) -> None:
    result = bench([line / "runs/tiny/export"], Path("b"), device="cuda", duration_s=0.2, energy_s=0)
    assert result.passed
    assert {row["provider"] for row in result.content["runners"]} == {"CUDAExecutionProvider"}


def test_the_ledger_of_the_export_is_completed_on_this_device(own_line: Path) -> None:
    content = read_json(own_line / "runs/tiny/bench/here/bench.json", "dhox.bench/2")["ledgers"][0]
    exported = {
        row["stage"]: row
        for row in read_json(own_line / "runs/tiny/export/ledger.json", "dhox.evidence.ledger/2")["rows"]
    }
    assert content["note"] is None
    assert [row["stage"] for row in content["rows"]] == ["onnx_fp32", "onnx_fp16"]
    for row in content["rows"]:  # the same runtime on the same processor
        assert row["correct"] == exported[row["stage"]]["correct"]
        assert (row["n"], row["agreement"], row["mcnemar_p"]) == (80, 1, 1)
    (own_line / "data/val/bag/000.png").unlink()
    found = quick(own_line / "runs/tiny/export", data=own_line / "data").content
    assert found["ledgers"][0]["rows"] == []
    assert found["ledgers"][0]["note"].endswith("lacks 1 of its images, such as val/bag/000.png")


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, after: int) -> None:
    """Batches of two fail once `after` calls were made."""
    calls = []
    real = OnnxSession.infer

    def infer(self: OnnxSession, batch: np.ndarray) -> np.ndarray:
        calls.extend([1] * (len(batch) == 2))
        if len(calls) > after:
            raise error
        return real(self, batch)

    monkeypatch.setattr(OnnxSession, "infer", infer)


def test_a_model_that_its_runtime_fails_to_run_drops_out(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, RuntimeError("CUDA out of memory\nmore"), after=0)
    content = quick(own_line / "runs/tiny/export", precisions=("fp32",), batches=(1, 2)).content
    assert content["status"] == "complete"
    assert [row["batch"] for row in content["latency"]] == [1]
    assert content["not_run"] == ["fp32 by onnxruntime at batch 2, e2e, ended early: CUDA out of memory"]


def test_a_model_that_fails_in_streams_is_named_and_the_others_go_on(
    own_line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's own exception in the threads of streams, where batches of two find no memory."""
    from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

    real = OnnxSession.infer

    def infer(self: OnnxSession, batch: np.ndarray) -> np.ndarray:
        if len(batch) == 2 and threading.current_thread() is not threading.main_thread():
            raise RuntimeException("CUDA failure 2: out of memory")
        return real(self, batch)

    monkeypatch.setattr(OnnxSession, "infer", infer)
    content = quick(own_line / "runs/tiny/export", precisions=("fp32",), batches=(2, 1), streams=(2,)).content
    assert content["status"] == "complete"
    assert [row["batch"] for row in content["latency"]] == [2, 1]
    assert [row["batch"] for row in content["streams"]] == [1]
    assert content["not_run"] == ["fp32 by onnxruntime at batch 2 in 2 streams not run: CUDA failure 2: out of memory"]


def test_a_bug_in_streams_keeps_its_traceback(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(self: OnnxSession, batch: np.ndarray) -> np.ndarray:
        raise TypeError("a bug")

    def stream(*arguments: Any) -> None:
        monkeypatch.setattr(OnnxSession, "infer", infer)
        stream_rows(*arguments)

    monkeypatch.setattr("dhox.bench.run.stream_rows", stream)
    with pytest.raises(TypeError, match="a bug"):
        quick(own_line / "runs/tiny/export", precisions=("fp32",), streams=(1,))


def test_a_failure_of_the_runtime_that_ends_a_bench_is_one_message(
    own_line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dhox.bench.run.trtexec_checks", full)
    with pytest.raises(DhoxError, match=r"ended early \(.*No space left on device\)\. Free memory or disk space"):
        quick(own_line / "runs/tiny/export", precisions=("fp32",))
    assert read_json(Path("b/bench.json"), "dhox.bench/2")["status"] == "interrupted"


def test_what_was_timed_before_a_bug_is_kept(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("a bug"), after=0)
    with pytest.raises(ZeroDivisionError):
        quick(own_line / "runs/tiny/export", precisions=("fp32",), batches=(1, 2))
    content = read_json(Path("b/bench.json"), "dhox.bench/2")
    assert content["status"] == "interrupted"
    assert [row["batch"] for row in content["latency"]] == [1]
    assert content["not_run"] == ["the rest not run: ZeroDivisionError"]


def test_a_model_that_goes_missing_leaves_the_others(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = own_line / "runs/tiny/export"

    def remove(cells: Any, *arguments: Any) -> dict[Any, str]:
        (export / "model.onnx").unlink(missing_ok=True)
        return measure(cells, *arguments)

    monkeypatch.setattr("dhox.bench.run.measure", remove)
    content = quick(export, batches=(1, 2)).content
    assert {(row["subject"], row["batch"]) for row in content["latency"]} == {("fp32", 1), ("fp16", 1), ("fp16", 2)}
    assert any(line.startswith("fp32 by onnxruntime not run: ") for line in content["not_run"])


def test_a_recording_is_never_taken_for_this_machine(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_SYSROOT", str(own_line))
    content = quick(own_line / "runs/tiny/export", precisions=("fp32",)).content
    assert content["device"]["sysroot"] == str(own_line)
    assert (
        not_as_asked(content)[0]
        == f"Board, clocks and sensors were read below {own_line}: a recording, not this machine."
    )


def test_every_export_has_a_ledger_of_its_own(own_line: Path) -> None:
    first = own_line / "runs/tiny/export"
    shutil.copytree(own_line / "data", "other data")
    second = Path(shutil.copytree(first, "second"))
    rewrite_manifest(first, data=str(own_line / "data"))
    rewrite_manifest(second, data=str(Path("other data").absolute()))
    (own_line / "data/val/bag/000.png").unlink()
    settings: dict[str, Any] = {"duration_s": 0.05, "energy_s": 0, "batches": (1,), "scopes": ("e2e",)}
    for number, exports in enumerate(([first, second], [second, first])):
        content = bench(exports, Path(f"b{number}"), precisions=("fp32",), **settings).content
        found = {ledger["export"]: ledger for ledger in content["ledgers"]}
        assert list(found) == [str(export.absolute()) for export in exports]
        broken, whole = found[str(first.absolute())], found[str(second.absolute())]
        assert broken["note"].endswith("lacks 1 of its images, such as val/bag/000.png")
        assert broken["rows"] == []
        assert whole["note"] is None
        (row,) = whole["rows"]
        assert row["agreement"] == 1
        assert row["subject"].startswith("second")


def test_what_an_emulated_model_is_not_asked_is_said(own_line: Path) -> None:
    content = quick(own_line / "runs/tiny/export", precisions=("fp16",), streams=(2,)).content
    assert content["streams"] == []
    assert content["not_run"] == [
        "fp16 by onnxruntime in streams or by LoadGen not run: this device emulates its precision"
    ]
    assert "Concurrent streams: not asked for." not in not_measured(content)


def test_torch_in_half_precision_on_a_cpu_is_emulated_whatever_else_runs(own_line: Path) -> None:
    for runners in (("torch",), ("onnxruntime", "torch")):
        content = quick(
            own_line / "runs/tiny/export", f"b{len(runners)}", precisions=("fp16",), runners=runners
        ).content
        reasons = {row["runner"]: row["emulated"] for row in content["latency"]}
        assert "half precision says nothing" in reasons["torch"]
        assert reasons.get("onnxruntime") != reasons["torch"]
        assert content["comparisons"] == []


def test_the_names_of_samples_are_unique() -> None:
    keys = [
        ("demo/fp32", "onnxruntime", 1, "e2e"),
        ("demo-fp32", "onnxruntime", 1, "e2e"),
        ("demo%2Ffp32", "o", 1, "e2e"),
    ]
    assert len({samples_key(key) for key in keys}) == 3
    assert not any("/" in samples_key(key) for key in keys)
