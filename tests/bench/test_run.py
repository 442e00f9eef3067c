from __future__ import annotations

import json
import shutil
import threading
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from plain_files import read_json, write_npz
from refusals import refuses

import dhox.bench
from dhox.artefacts.arrays import read_npz
from dhox.artefacts.bench import Bench
from dhox.artefacts.files import sha256
from dhox.artefacts.predictions import read_predictions
from dhox.artefacts.record import read_record
from dhox.artefacts.run import read_run
from dhox.artefacts.samples import read_samples, samples_name
from dhox.bench.bench_models import open_models
from dhox.bench.rounds import FEWEST_ROUNDS, measure
from dhox.bench.runners.runner import open_runner
from dhox.bench.runners.streams import concurrent_streams
from dhox.data.images import UnreadableImageError
from dhox.errors import DhoxError, UsageError
from dhox.evidence.statistics import percentile
from dhox.runtimes.onnxruntime_session import OnnxSession


def rewrite_manifest(export: Path, **changes: object) -> None:
    manifest = json.loads((export / "manifest.json").read_text())
    (export / "manifest.json").write_text(json.dumps(manifest | changes))


def read_bench(folder: Path) -> Bench:
    return read_record(folder / "bench.json", Bench)


def test_the_bench_directory_holds_the_contract(line: Path) -> None:
    folder = line / "runs/tiny/bench/here"
    found = read_bench(folder)
    scopes = ("device", "e2e", "pipeline")
    cells = [(row.model, row.batch, row.scope) for row in found.latency]
    assert sorted(cells) == sorted(product(("fp32",), (1, 8), scopes))
    assert [*found.emulated] == [("fp16", "onnxruntime")]
    assert [(row.model, row.batch) for row in found.runners] == [("fp16", 1), ("fp32", 1), ("fp32", 8)]
    assert [row.model for row in found.accuracy.rows] == ["fp32", "fp16"]
    samples = read_samples(folder / "samples.npz", found)
    assert samples is not None
    for row in found.latency:
        calls = samples.calls[row.key]
        taken = np.concatenate(list(calls.rounds))
        assert row.n == len(taken)
        assert row.rounds == len(calls.rounds) == len(calls.started_s) == FEWEST_ROUNDS
        for p in (50, 90, 95, 99):
            assert getattr(row.latency_ms, f"p{p}") == percentile(taken / 1e6, p)
        assert row.images_per_s == pytest.approx(row.batch * len(taken) / taken.sum() * 1e9)
    assert {row.facts.provider for row in found.runners} == {"CPUExecutionProvider"}
    assert found.passed
    assert (found.device.cpu_cores or 0) >= 1


def test_accuracy_is_that_of_the_predictions_and_of_torch(line: Path) -> None:
    folder = line / "runs/tiny/bench/here"
    found = read_bench(folder)
    answers = read_predictions(folder / "predictions.csv")
    for row in found.accuracy.rows:
        mine = answers[row.model, row.runner].values()
        assert len(mine) == row.n == 48
        right = sum(answer.label == answer.predicted for answer in mine)
        assert right == row.correct == np.trace(np.array(row.confusion))
        assert np.sum(row.confusion) == 48
        assert sum(one.n for one in row.per_class) == 48
        assert sum(one.n * (one.recall or 0) for one in row.per_class) == pytest.approx(right)
    first, second = found.accuracy.rows
    assert first.reference is None
    assert second.reference is not None
    assert second.reference.gained - second.reference.lost == second.correct - first.correct
    in_torch = {row.stage: row.correct for row in read_run(line / "runs/tiny").test or []}
    assert first.correct == in_torch["dho"]  # the fold is exact here


def quick(*exports: Path, out: str = "b", **options: Any) -> Bench:
    settings: dict[str, Any] = {"duration": 0.05, "energy": 0, "batch": "1", "scope": "e2e"}
    result = dhox.bench(*exports, out=out, **(settings | options))
    assert result.directory == Path(out)
    return result.bench


def test_without_the_test_split_accuracy_is_not_run_and_says_so(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    rewrite_manifest(export, data="/nowhere")
    content = quick(export, scope="pipeline")
    assert content.accuracy.rows == []
    assert "/nowhere" in (content.accuracy.note or "")
    assert content.settings.images == "the golden JPEG of the export"
    assert quick(export, out="c", data=own_line / "data").accuracy.rows[0].n == 48
    with refuses("--data missing", at="bench.accuracy.evaluation_images", kind=UsageError):
        quick(export, out="d", data=Path("missing"))


def test_an_evaluation_set_without_images_or_with_other_labels_is_refused(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    (own_line / "data/test/bag").rename(own_line / "data/test/purse")
    with refuses("fp32", "purse", at="bench.accuracy.evaluation_images", fix="--data"):
        quick(export, data=own_line / "data")
    shutil.rmtree(own_line / "data/test")
    with refuses("test", at="bench.accuracy.evaluation_images", fix="data/test/CLASS/"):
        quick(export, data=own_line / "data")
    assert not Path("b").exists()


def test_several_models_are_measured_side_by_side(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    shutil.copytree(export, own_line / "runs/other/export")
    other = own_line / "runs/other/export"
    content = quick(export / "model.onnx", other, export / "model.onnx", precision=("fp32",), batch="2")
    assert [row.name for row in content.models] == ["tiny/fp32 #1", "other/fp32", "tiny/fp32 #2"]
    assert len(content.latency) == len(content.golden) == 3
    assert {row.correct for row in content.accuracy.rows} == {content.accuracy.rows[0].correct}
    with refuses("heads.npz", at="bench.bench_models.foreign_model", fix="--contract FILE"):
        quick(export / "heads.npz")


def test_an_interrupted_bench_keeps_what_it_has(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def stop_at_the_second_batch(cells: Any, *arguments: Any) -> dict[Any, str]:
        opened.append(cells)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return measure(cells, *arguments)

    monkeypatch.setattr("dhox.bench.run.measure", stop_at_the_second_batch)
    content = quick(own_line / "runs/tiny/export", batch="1,2")
    assert content.status == "interrupted"
    assert {row.batch for row in content.latency} == {1}
    assert read_bench(Path("b")).accuracy.rows


def test_rows_are_throttled_whose_batch_size_was(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = own_line / "root/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("7")
    monkeypatch.setenv("DHOX_SYSROOT", str(own_line / "root"))

    def hot_at_batch_2(cells: Any, *arguments: Any) -> dict[Any, str]:
        failed = measure(cells, *arguments)
        if cells[0].key.batch == 2:
            counter.write_text("8")
        return failed

    monkeypatch.setattr("dhox.bench.run.measure", hot_at_batch_2)
    content = quick(own_line / "runs/tiny/export", batch="1,2,4", precision=("fp32",))
    assert content.conditions.throttled == ["CPU temperature (package)"]
    assert [row.batch for row in content.latency if "throttled" in row.flags] == [2]


def test_a_changed_file_is_refused(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    content = bytearray((export / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (export / "model.onnx").write_bytes(content)
    with refuses("model.onnx", "manifest.json", "SHA-256", at="artefacts.files.check_hash"):
        quick(export)
    (export / "model.onnx").unlink()
    with refuses("model.onnx", "manifest.json", "missing", at="artefacts.files.check_hash"):
        quick(export)
    assert not Path("b").exists()


def test_wrong_golden_outputs_fail(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    golden = read_npz(export / "golden.npz")
    write_npz(export / "golden.npz", **{**golden, "probs": np.roll(golden["probs"], 1, axis=-1)})
    files = json.loads((export / "manifest.json").read_text())["files"]
    rewrite_manifest(export, files=files | {"golden.npz": sha256(export / "golden.npz")})
    assert not any(row.passed for row in quick(export).golden)


def test_outputs_that_are_not_finite_fail_and_are_written(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = np.float32("nan")
    monkeypatch.setattr(OnnxSession, "infer", lambda self, batch: np.full((len(batch), 4), nan))
    assert not quick(own_line / "runs/tiny/export").passed
    assert {row.largest_difference for row in read_bench(Path("b")).golden} == {None}


def n_measured(own_line: Path) -> int:
    return quick(own_line / "runs/tiny/export", data=own_line / "data").accuracy.rows[0].n


def test_a_board_with_the_test_images_alone_measures_accuracy(own_line: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(own_line / f"data/{split}")
    assert n_measured(own_line) == 48


def test_test_images_that_training_skipped_are_left_out(own_line: Path) -> None:
    (own_line / "data/test/bag/bad.png").write_bytes(b"bad")
    with refuses("test/bag/bad.png", at="data.images.decode", kind=UnreadableImageError):
        n_measured(own_line)
    assert not Path("b").exists()
    rewrite_manifest(own_line / "runs/tiny/export", skipped=["test/bag/bad.png"])
    assert n_measured(own_line) == 48


def test_the_runner_answers_as_the_session_and_names_its_provider(line: Path) -> None:
    (model,) = open_models([line / "runs/tiny/export/model.onnx"])
    golden = read_npz(line / "runs/tiny/export/golden.npz")
    with closing(open_runner(model, "onnxruntime", "cpu")) as runner:
        probs = model.tensors.probs(runner.infer(model.tensors.graph_input(golden["input"])))
        assert abs(probs - golden["probs"]).max() < 1e-4
        assert (runner.name, runner.facts.provider) == ("onnxruntime", "CPUExecutionProvider")


@pytest.mark.gpu
def test_streams_replay_graphs_of_their_own(line: Path) -> None:
    runners = ("onnxruntime:graph", "torch:graph")
    found = quick(line / "runs/tiny/export", device="cuda", runner=runners, streams="1,2", duration=0.5)
    assert found.passed
    assert {(row.runner, row.streams) for row in found.streams} == {(name, n) for name in runners for n in (1, 2)}
    assert all(row.facts.graph for row in found.runners), [row.facts.graph_note for row in found.runners]


@pytest.mark.gpu
def test_energy_is_counted_under_load(line: Path) -> None:
    found = quick(line / "runs/tiny/export", device="cuda", duration=0.2, energy=5.0)
    assert found.energy.rows
    assert all(row.rails_w["GPU"] > 0 for row in found.energy.rows)


@pytest.mark.gpu
def test_cuda_gives_the_golden_outputs(line: Path) -> None:
    found = quick(line / "runs/tiny/export", device="cuda", duration=0.2)
    assert found.passed
    assert {row.facts.provider for row in found.runners} == {"CUDAExecutionProvider"}


def test_the_ledger_of_the_export_is_completed_on_this_device(own_line: Path) -> None:
    (ledger,) = read_bench(own_line / "runs/tiny/bench/here").ledgers
    exported = {row["stage"]: row for row in read_json(own_line / "runs/tiny/export/ledger.json")["rows"]}
    assert ledger.note is None
    assert [row.stage for row in ledger.rows] == ["onnx_fp32", "onnx_fp16"]
    for row in ledger.rows:  # the same runtime on the same processor
        assert row.correct == exported[row.stage]["correct"]
        assert (row.n, row.agreement, row.mcnemar_p) == (80, 1, 1)
    (own_line / "data/val/bag/000.png").unlink()
    found = quick(own_line / "runs/tiny/export", data=own_line / "data")
    assert found.ledgers[0].rows == []
    assert "val/bag/000.png" in (found.ledgers[0].note or "")


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
    content = quick(own_line / "runs/tiny/export", precision=("fp32",), batch="1,2")
    assert content.status == "complete"
    assert [row.batch for row in content.latency] == [1]
    (missing,) = content.not_run
    assert (missing.what, missing.model, missing.batch, missing.scope) == ("latency", "fp32", 2, "e2e")
    assert missing.reason == "CUDA out of memory"


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
    content = quick(own_line / "runs/tiny/export", precision=("fp32",), batch="2,1", streams="2")
    assert content.status == "complete"
    assert [row.batch for row in content.latency] == [2, 1]
    assert [row.batch for row in content.streams] == [1]
    (missing,) = content.not_run
    assert (missing.what, missing.model, missing.batch, missing.streams) == ("streams", "fp32", 2, 2)
    assert missing.text == "fp32 by onnxruntime at batch 2 in 2 streams not run: CUDA failure 2: out of memory"


def test_a_bug_in_streams_keeps_its_traceback(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(self: OnnxSession, batch: np.ndarray) -> np.ndarray:
        raise TypeError("a bug")

    def stream(*arguments: Any) -> object:
        monkeypatch.setattr(OnnxSession, "infer", infer)
        return concurrent_streams(*arguments)

    monkeypatch.setattr("dhox.bench.run.concurrent_streams", stream)
    with pytest.raises(TypeError, match="a bug"):
        quick(own_line / "runs/tiny/export", precision=("fp32",), streams="1")


def test_a_failure_of_the_runtime_that_ends_a_bench_is_one_message(
    own_line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dhox.bench.run.trtexec_checks", full)
    with refuses("No space left on device", at="bench.run.bench"):
        quick(own_line / "runs/tiny/export", precision=("fp32",))
    assert read_bench(Path("b")).status == "interrupted"


def test_a_bench_is_complete_only_with_its_samples(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, samples: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("dhox.bench.results.write_samples", killed)
    with pytest.raises(SystemExit):
        quick(own_line / "runs/tiny/export", precision=("fp32",))
    assert read_bench(Path("b.partial")).status == "running"


def test_what_was_timed_before_a_bug_is_kept(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("a bug"), after=0)
    with pytest.raises(ZeroDivisionError):
        quick(own_line / "runs/tiny/export", precision=("fp32",), batch="1,2")
    content = read_bench(Path("b"))
    assert content.status == "interrupted"
    assert [row.batch for row in content.latency] == [1]
    assert [missing.text for missing in content.not_run] == ["the rest not run: ZeroDivisionError"]


def test_a_model_that_goes_missing_leaves_the_others(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = own_line / "runs/tiny/export"

    def remove(cells: Any, *arguments: Any) -> dict[Any, str]:
        (export / "model.onnx").unlink(missing_ok=True)
        return measure(cells, *arguments)

    other = Path(shutil.copytree(export, "other"))
    monkeypatch.setattr("dhox.bench.run.measure", remove)
    content = quick(export, other, batch="1,2", precision=("fp32",))
    gone, kept = (model.name for model in content.models)
    assert {(row.model, row.batch) for row in content.latency} == {(gone, 1), (kept, 1), (kept, 2)}
    assert any((one.what, one.model, one.batch) == ("model", gone, None) for one in content.not_run)


def test_a_recording_is_never_taken_for_this_machine(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_SYSROOT", str(own_line))
    content = quick(own_line / "runs/tiny/export", precision=("fp32",))
    assert content.device.sysroot == str(own_line)


def test_every_export_has_a_ledger_of_its_own(own_line: Path) -> None:
    first = own_line / "runs/tiny/export"
    shutil.copytree(own_line / "data", "other data")
    second = Path(shutil.copytree(first, "second"))
    rewrite_manifest(first, data=str(own_line / "data"))
    rewrite_manifest(second, data=str(Path("other data").absolute()))
    (own_line / "data/val/bag/000.png").unlink()
    for number, exports in enumerate(([first, second], [second, first])):
        content = quick(*exports, out=f"b{number}", precision=("fp32",))
        found = {ledger.export: ledger for ledger in content.ledgers}
        assert list(found) == [str(export.absolute()) for export in exports]
        broken, whole = found[str(first.absolute())], found[str(second.absolute())]
        assert "val/bag/000.png" in (broken.note or "")
        assert broken.rows == []
        assert whole.note is None
        (row,) = whole.rows
        assert row.agreement == 1
        assert row.model.startswith("second")


def test_what_an_emulated_model_is_not_asked_is_said(own_line: Path) -> None:
    content = quick(own_line / "runs/tiny/export", precision=("fp16",), streams="2")
    assert content.streams == []
    (missing,) = content.not_run
    assert (missing.what, missing.model, missing.runner) == ("streams", "fp16", "onnxruntime")


def test_torch_in_half_precision_on_a_cpu_is_emulated_whatever_else_runs(own_line: Path) -> None:
    for runners in (("torch",), ("onnxruntime", "torch")):
        export = own_line / "runs/tiny/export"
        content = quick(export, out=f"b{len(runners)}", precision=("fp16",), runner=runners)
        reasons = {runner: why for (_, runner), why in content.emulated.items()}
        assert reasons["torch"]
        assert reasons.get("onnxruntime") != reasons["torch"]
        assert content.comparisons == content.latency == []
        assert {row.runner for row in content.accuracy.rows} == {*runners}


def test_what_is_emulated_costs_one_pass_and_no_clock(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Any] = []
    monkeypatch.setattr("dhox.bench.run.measure", lambda cells, *rest: timed.extend(cells) or measure(cells, *rest))
    content = quick(own_line / "runs/tiny/export", batch="1,2")
    assert {(cell.key.model, cell.key.batch) for cell in timed} == {("fp32", 1), ("fp32", 2)}
    assert {row.model for row in content.golden} == {row.model for row in content.accuracy.rows} == {"fp32", "fp16"}
    timed.clear()
    content = quick(own_line / "runs/tiny/export", out="c", precision=("fp16",))
    assert timed == content.latency == []
    assert content.status == "complete"


def test_the_names_of_samples_are_unique() -> None:
    keys = [
        ("demo/fp32", "onnxruntime", 1, "e2e"),
        ("demo-fp32", "onnxruntime", 1, "e2e"),
        ("demo%2Ffp32", "o", 1, "e2e"),
    ]
    assert len({samples_name(*key) for key in keys}) == 3
    assert not any("/" in samples_name(*key) for key in keys)


def test_a_file_with_a_fixed_batch_says_which_batch_it_takes(own_line: Path) -> None:
    """Another runner would not help: the file takes batches of 1 alone."""
    export = own_line / "runs/tiny/export"
    graph = onnx.load(export / "model.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, export / "model.onnx")
    manifest = json.loads((export / "manifest.json").read_text())
    manifest["artefacts"][0]["sha256"] = sha256(export / "model.onnx")
    (export / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DhoxError) as caught:
        quick(export, precision=("fp32",), batch="8")
    assert "batches of 1" in caught.value.reason
    assert "--batch 1" in caught.value.fix
    assert "runner" not in caught.value.fix
    found = quick(export, precision=("fp32",), batch="1,8", streams="2")
    assert (found.passed, {row.batch for row in found.latency}) == (True, {1})
    of_eight = [one for one in found.not_run if one.batch == 8]
    assert {one.what for one in of_eight} == {"model", "streams"}
    assert all("batches of 1" in one.reason for one in of_eight)
