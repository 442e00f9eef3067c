"""`dhox bench`: an export directory to a bench directory, without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from dhox.bench.accuracy import accuracy, predictions_csv, test_items
from dhox.bench.measure import BOUNDARY, METHOD, latency_summary, measure
from dhox.bench.runners import OnnxRuntimeRunner, Runner, choose_device
from dhox.dataset import data_address, data_exists
from dhox.device_ledger import device_row, ledger_items
from dhox.environment import now, versions
from dhox.errors import DhoxError
from dhox.exported import check_file, graph_input, predict_items, read_manifest
from dhox.files import (
    BENCH_FILE,
    BENCH_SCHEMA,
    EXPORT_FILE,
    check_output,
    output_directory,
    read_json,
    read_npz,
    sha256,
    write_bytes,
    write_json,
    write_npz,
)
from dhox.golden import check_golden
from dhox.images import Preprocessing
from dhox.ledger import LEDGER_SCHEMA
from dhox.machine import device_card
from dhox.onnx_session import NO_CPU_KERNELS

EMULATED = "the CPU provider computes half precision and Q/DQ in fp32: its time says nothing about a GPU"


@dataclass(frozen=True)
class BenchResult:
    """What `dhox bench` reports: the content of bench.json. `passed`: every artefact passed its golden check."""

    bench: Path
    content: dict[str, Any]
    passed: bool


def bench(
    export: Path,
    out: Path | None = None,
    *,
    device: str = "auto",
    batches: tuple[int, ...] = (1, 8),
    seconds: float = 2.0,
    data: Path | None = None,
    overwrite: bool = False,
) -> BenchResult:
    """Measure every artefact of an export on this machine and write the bench directory.

    `out`: by default bench/HOST-TIME beside the export. `seconds`: per artefact and batch. `data`: where the test
    split is, by default where the export says; if that is not on this machine, accuracy is `not run`. Raises DhoxError
    for a damaged export, a device that is not there, and bad images.
    """
    manifest = read_manifest(export)
    used = choose_device(device)
    card = device_card()
    out = out or export.absolute().parent / "bench" / f"{card['host']}-{datetime.now():%Y%m%d-%H%M%S}"
    check_output(out, BENCH_FILE, BENCH_SCHEMA, overwrite)
    classes = [entry["name"] for entry in manifest["classes"]]
    preprocessing = Preprocessing.from_json(manifest["preprocessing"])
    golden = read_npz(check_file(export, "golden.npz", manifest["files"]["golden.npz"]))

    where = data or Path(manifest["data"])
    if data is not None and not data_exists(data):
        raise DhoxError(f"--data {data} does not exist. Give the image folder or manifest with the test split.")
    items = test_items(where, classes, manifest["skipped"]) if data is not None or where.exists() else []
    accuracy_note = None
    if not items:
        accuracy_note = f"not run: no test split at {where}. Give --data."

    ledger = read_json(check_file(export, "ledger.json", manifest["files"]["ledger.json"]), LEDGER_SCHEMA)
    judges, ledger_note = ledger_items(where, classes, ledger)

    rows, samples, probs, golden_rows, ledger_rows, not_run = [], {}, {}, [], [], []
    with output_directory(out, BENCH_FILE, BENCH_SCHEMA, overwrite) as folder:
        for entry in manifest["artefacts"]:
            precision = entry["precision"]
            if used == "cpu" and precision in NO_CPU_KERNELS:
                not_run.append(f"{entry['file']} not run: ONNX Runtime's CPU provider has no {precision}")
                continue
            runner = OnnxRuntimeRunner(check_file(export, entry["file"], entry["sha256"]), used)
            emulated = EMULATED if precision != "fp32" and used == "cpu" else None
            if items:
                probs[precision] = predict_items(
                    runner, items, preprocessing, entry["input"], f"{precision}, test images"
                )
            if judges:
                answers = predict_items(runner, judges, preprocessing, entry["input"], f"{precision}, ledger images")
                ledger_rows.append(device_row(answers, precision, ledger, len(classes)))
            for batch in batches:
                pixels = np.resize(golden["input"], (batch, *golden["input"].shape[1:]))
                array = graph_input(pixels, entry["input"], preprocessing)
                taken = measure(runner, array, seconds, f"{precision}, batch {batch}")
                samples[f"{precision}_batch{batch}_ns"] = taken
                rows.append(
                    {
                        "artefact": entry["file"], "precision": precision, "bytes": entry["bytes"],
                        "runner": runner.name, "device": used, "provider": runner.provider, "boundary": BOUNDARY,
                        "emulated": emulated,
                        **latency_summary(taken, batch),
                    }
                )  # fmt: skip
            run = on_pixels(runner, entry["input"], preprocessing)
            result = check_golden(golden, run, precision, preprocessing, entry["golden_agreement"])
            golden_rows.append({"artefact": entry["file"], "precision": precision, **asdict(result)})

        content = {
            "schema": BENCH_SCHEMA,
            "status": "complete",
            "finished_at": now(),
            "export": {"path": str(export.absolute()), "manifest_sha256": sha256(export / EXPORT_FILE)},
            "device_asked": device,
            "device": card,
            "method": METHOD,
            "latency": rows,
            "not_run": not_run,
            "accuracy": {
                "split": "test",
                "data": data_address(where),
                "note": accuracy_note,
                "classes": classes,
                "rows": [
                    {"precision": precision, **accuracy(of_one, items, classes)} for precision, of_one in probs.items()
                ],
            },
            "ledger": {"images": ledger["images"], "note": ledger_note, "rows": ledger_rows},
            "golden": golden_rows,
            "environment": versions(),
        }
        write_npz(folder / "samples.npz", **samples)
        if probs:
            write_bytes(folder / "predictions.csv", predictions_csv(probs, items, classes))
        write_json(folder / BENCH_FILE, content)
    return BenchResult(out, content, all(row["passed"] for row in golden_rows))


def on_pixels(runner: Runner, input_kind: str, preprocessing: Preprocessing) -> Callable[[np.ndarray], np.ndarray]:
    """The runner as a function of preprocessed pixels, uint8 [N, H, W, 3]."""
    return lambda pixels: runner(graph_input(pixels, input_kind, preprocessing))
