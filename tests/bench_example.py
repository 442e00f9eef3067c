"""Hand-made bench directories for the tables and pages: every section, on a CPU, a GPU and a Jetson."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from dhox.artefacts.files import write_json, write_npz
from dhox.evidence.ledger import stage_row
from dhox.evidence.statistics import (
    accuracy_row,
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    percentile,
)

ROUNDS = 40
CLASSES = ["bag", "dress", "sandal", "<b>trousers</b>", 'quo"te', "[red]shirt[/red]"]

GPU = {
    "name": "NVIDIA H200", "compute_capability": "9.0", "driver": "580.82", "memory_bytes": 150_754_820_096,
    "power_limit_w": 700.0, "highest_clock_mhz": 1980, "mig": False,
}  # fmt: skip
JETSON = {
    "model": "NVIDIA Jetson AGX Orin Developer Kit", "module": "Jetson AGX Orin 64 GB", "soc": "tegra234",
    "compute_capability": "8.7", "l4t": "36.4.3", "jetpack": "6.2", "power_mode": {"id": 0, "name": "MAXN"},
    "power_mode_note": None, "jetson_clocks": "on",
    "gpu_clock_mhz": {"current": 1300.5, "min": 1300.5, "max": 1300.5, "governor": "nvhost_podgov"},
    "memory_clock_mhz": None, "memory_clock_note": "only root may read it", "temperature_c": {"cpu-thermal": 47.0, "gpu-thermal": 48.5},
    "memory_bytes": 65_000_000_000, "python": "3.10.12", "tensorrt": {"version": "10.3.0.30-1+cuda12.5", "why_not": None},
}  # fmt: skip


def example(
    folder: Path,
    kind: str,
    *,
    subjects: tuple[str, ...] = ("fp32", "fp16", "int8"),
    batches: tuple[int, ...] = (1, 8, 32),
    classes: list[str] = CLASSES,
    drifting: str | None = None,
    second_runner: str | None = None,
) -> dict[str, Any]:
    """Write FOLDER/bench.json, samples.npz and predictions.csv of a machine of one kind (cpu, cuda or jetson).

    Returns the content. Round medians of the subject `drifting` rise by 8 % over the bench. A `second_runner` repeats
    the numbers of the first.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    runner = {"cpu": "onnxruntime", "cuda": "onnxruntime:graph", "jetson": "tensorrt:graph"}[kind]
    scopes = ("e2e", "pipeline") if kind == "cpu" else ("device", "e2e", "pipeline")
    content = frame(kind, runner, batches, scopes, classes)
    arrays: dict[str, np.ndarray] = {}
    for number, name in enumerate(subjects):
        precision = name if name in {"fp32", "fp16", "bf16", "int8"} else "fp16"
        content["subjects"].append(subject_row(name, precision, number))
        for batch in batches:
            content["runners"].append(runner_row(kind, name, runner, batch, precision))
            for scope in scopes:
                content["latency"].append(
                    latency(rng, arrays, kind, (name, runner, batch, scope), number, precision, name == drifting)
                )
    add_comparisons(content, subjects, runner, batches, scopes)
    add_streams(content, subjects, runner)
    add_accuracy(rng, folder, content, subjects, runner, classes)
    if kind != "cpu":
        add_energy(rng, arrays, content, kind, subjects, runner, batches)
    if second_runner:
        lists = [content[name] for name in ("runners", "latency", "golden")]
        for rows in (*lists, content["accuracy"]["rows"], content["energy"]["rows"]):
            rows += [{**row, "runner": second_runner} for row in rows]
    write_json(folder / "bench.json", content)
    write_npz(folder / "samples.npz", **arrays)
    return content


def frame(
    kind: str, runner: str, batches: tuple[int, ...], scopes: tuple[str, ...], classes: list[str]
) -> dict[str, Any]:
    """What does not depend on the subjects."""
    clocks = {"min": 1290.0, "median": 1300.5, "max": 1300.5}
    return {
        "schema": "dhox.bench/2", "status": "complete", "finished_at": "2026-11-23T06:03:10.265294+00:00",
        "device_asked": "jetson" if kind == "jetson" else "auto",
        "device": {
            "host": {"cpu": "laptop", "cuda": "server", "jetson": "orin"}[kind],
            "platform": "Linux-6.8-example", "machine": "aarch64" if kind == "jetson" else "x86_64",
            "cpu": {"cpu": "AMD EPYC", "cuda": "Intel Xeon", "jetson": "ARMv8 Processor rev 1 (v8l)"}[kind],
            "cpu_cores": 12, "memory_bytes": 64_000_000_000, "sysroot": None,
            "gpu": GPU if kind == "cuda" else None, "jetson": JETSON if kind == "jetson" else None,
        },
        "settings": {
            "batches": list(batches), "scopes": list(scopes), "duration_s": 10.0, "rounds": ROUNDS, "seed": 0,
            "energy_s": 30.0, "streams": [1, 2, 4], "scenario": "singlestream", "runners": [runner], "images": "32 golden images of the export, repeated",
        },
        "method": [
            "perf_counter_ns around one synchronised call, the same for every runner.",
            "Every round visits all subjects in random order; nothing but the warm-up is dropped.",
        ],
        "subjects": [], "runners": [], "latency": [], "comparisons": [], "streams": [],
        "conditions": {
            "sampled": 412, "sample_ms": 1.2, "gpu_clock_mhz": None if kind == "cpu" else clocks,
            "memory_clock_mhz": {"min": 3199.0, "median": 3199.0, "max": 3199.0} if kind == "jetson" else None,
            "cpu_clock_mhz": {"min": 1800.0, "median": 2200.0, "max": 2200.0},
            "temperature_c": {} if kind == "cpu" else {"gpu": {"first": 48.5, "max": 61.0}, "cpu": {"first": 47.0, "max": 58.5}},
            "throttled": ["software power cap"] if kind == "cuda" else [],
            "locked": {"cpu": None, "cuda": False, "jetson": True}[kind], "note": None,
        },
        "memory": {"peak_bytes": 412_000_000, "process_peak_bytes": 380_000_000, "method": "MemAvailable, sampled."},
        "energy": {
            "includes": None, "error": None, "error_w": None, "meter": None, "note": "not measured: no energy counter is readable (/sys/class/powercap needs root)",
            "rails": [], "total": [], "estimate": False, "idle": None, "rows": [],
        },
        "accuracy": {"split": "test", "data": "/data/shop", "note": None, "classes": classes, "rows": []},
        "ledgers": [{"export": "/exports/run", "images": "600 validation images", "note": None, "rows": []}],
        "golden": [],
        "cross_checks": [
            {
                "with": "LoadGen singlestream", "subject": "fp32", "runner": runner, "scope": "e2e", "batch": 1,
                "unit": "ms", "theirs": 0.514, "ours": 0.511, "difference_percent": {"mean": 0.6, "interval": [0.4, 0.8]}, "pairs": 21,
                "note": "LoadGen-driven, not an MLPerf result",
            },
            {
                "with": "trtexec", "subject": "fp32", "runner": runner, "scope": "device", "batch": 1, "unit": "ms",
                "theirs": 0.5, "ours": 0.51, "difference_percent": {"mean": -2.0, "interval": None}, "unstable": True,
            },
        ],
        "not_run": [] if kind != "cpu" else ["model.bf16.onnx not run: ONNX Runtime's CPU provider has no bf16"],
        "environment": {"python": "3.10.12", "numpy": "1.26.4", "onnxruntime": "1.23.2"},
    }  # fmt: skip


def subject_row(name: str, precision: str, number: int) -> dict[str, Any]:
    return {
        "name": name, "file": f"model.{precision}.onnx", "path": f"/exports/{name}/model.{precision}.onnx",
        "precision": precision, "bytes": 46_000_000 >> number, "sha256": f"{number:064x}", "input_kind": "uint8-nhwc",
        "export": {"path": "/exports/run", "manifest_sha256": "a" * 64}, "contract": None,
    }  # fmt: skip


def runner_row(kind: str, name: str, runner: str, batch: int, precision: str) -> dict[str, Any]:
    off = 3 if kind == "cuda" and precision == "int8" else 0
    graph = kind != "cpu" and not off
    return {
        "subject": name, "runner": runner, "batch": batch, "open_s": 1.25,
        "device": {"cpu": "cpu", "cuda": "cuda", "jetson": "tensorrt"}[kind],
        "provider_asked": None if kind == "jetson" else "CUDAExecutionProvider" if kind == "cuda" else "CPUExecutionProvider",
        "provider": None if kind == "jetson" else "CUDAExecutionProvider" if kind == "cuda" else "CPUExecutionProvider",
        "graph_asked": kind != "cpu", "graph": graph,
        "graph_note": "3 nodes run on the CPU" if off else None,
        "precision_asked": precision, "precision_proven": precision if kind != "cpu" or precision == "fp32" else None,
        "precision_note": None, "nodes_off_device": off, "notes": [],
    }  # fmt: skip


def latency(
    rng: np.random.Generator, arrays: dict[str, np.ndarray], kind: str, key: tuple[str, str, int, str], number: int,
    precision: str, drifting: bool,
) -> dict[str, Any]:  # fmt: skip
    name, runner, batch, scope = key
    base = {"cpu": 4.0, "cuda": 0.22, "jetson": 0.64}[kind] * (1 - 0.25 * number % 0.9) * (0.4 + 0.6 * batch**0.8)
    base *= {"device": 1.0, "e2e": 1.25, "pipeline": 3.0}[scope]
    trend = np.linspace(1, 1.08, ROUNDS) if drifting else np.ones(ROUNDS)
    rounds = [base * step * (1 + rng.gamma(1.5, 0.012, 30)) for step in trend]
    samples = np.concatenate(rounds)
    samples_key = "_".join(map(str, key)).replace("/", "-")
    arrays[samples_key] = np.round(samples * 1e6).astype(np.int64)
    arrays[f"{samples_key}_rounds"] = np.full(ROUNDS, 30)
    arrays[f"{samples_key}_started_s"] = 1000 + np.arange(ROUNDS) * 2.5 + number * 0.7
    p50 = percentile(samples, 50)
    flags = ["drift"] if drifting else []
    if kind == "cuda":
        flags.append("throttled")
    return {
        "subject": name, "runner": runner, "batch": batch, "scope": scope,
        "emulated": "the CPU provider computes half precision and Q/DQ in fp32: its time says nothing about a GPU"
        if kind == "cpu" and precision != "fp32" else None,
        "n": len(samples), "rounds": ROUNDS, "samples": samples_key,
        "latency_ms": {f"p{p}": percentile(samples, p) for p in (50, 90, 95, 99)}
        | {"max": float(samples.max()), "min": float(samples.min()), "mean": float(samples.mean()), "mad": 0.01 * p50},
        "p50_interval": [0.998 * p50, 1.003 * p50],
        "p99_interval": [1.04 * p50, 1.09 * p50] if batch == 1 else None,
        "images_per_s": 1000 * batch / float(samples.mean()), "cv": float(samples.std() / samples.mean()),
        "round_cv": 0.02 if drifting else 0.003, "effective": {"rounds": 38.5, "calls_at_p99": len(samples)},
        "drift": {"rho": 0.97 if drifting else 0.1, "change": 0.08 if drifting else 0.001, "flagged": drifting},
        "flags": flags, "warm_up": {"seconds": 0.6, "steady": True},
    }  # fmt: skip


def add_comparisons(
    content: dict[str, Any],
    subjects: tuple[str, ...],
    runner: str,
    batches: tuple[int, ...],
    scopes: tuple[str, ...],
) -> None:
    p50 = {(row["subject"], row["batch"], row["scope"]): row["latency_ms"]["p50"] for row in content["latency"]}
    for batch in batches:
        for scope in scopes:
            for name in subjects[1:]:
                ratio = p50[name, batch, scope] / p50[subjects[0], batch, scope]
                content["comparisons"].append(
                    {
                        "batch": batch, "scope": scope, "reference": [subjects[0], runner],
                        "subject": [name, runner], "ratio": ratio, "interval": [0.99 * ratio, 1.01 * ratio],
                        "verdict": "faster" if ratio < 0.99 else "slower" if ratio > 1.01 else "no difference shown",
                    }
                )  # fmt: skip


def add_streams(content: dict[str, Any], subjects: tuple[str, ...], runner: str) -> None:
    for streams in (1, 2, 4):
        rate = 900.0 * streams**0.7
        content["streams"].append(
            {
                "subject": subjects[0], "runner": runner, "batch": 1, "streams": streams, "images_per_s": rate,
                "interval": [0.98 * rate, 1.02 * rate], "p50_ms": 1.1 * streams**0.3, "p99_ms": 1.4 * streams**0.4, "n": 900,
            }
        )  # fmt: skip


def add_accuracy(
    rng: np.random.Generator,
    folder: Path,
    content: dict[str, Any],
    subjects: tuple[str, ...],
    runner: str,
    classes: list[str],
) -> None:
    """Answers of a classifier that is right four times in five, the last subject a little less."""
    count, n = len(classes), 600
    labels = rng.integers(0, count, n)
    logits = rng.normal(0, 1, (n, count)) + 2.6 * np.eye(count)[labels]
    small = count <= 30
    probs_of = {}
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["subject", "runner", "path", "label", "predicted", "probability"])
        for number, name in enumerate(subjects):
            noisy = logits + (0.4 if number == len(subjects) - 1 else 0.01) * rng.normal(0, 1, logits.shape)
            probs = np.exp(noisy) / np.exp(noisy).sum(-1, keepdims=True)
            probs_of[name] = probs
            for i, row in enumerate(probs):
                best = int(row.argmax())
                writer.writerow([name, runner, f"test/{i}.jpg", classes[labels[i]], classes[best], f"{row[best]:.6f}"])
    reference = probs_of[subjects[0]]
    for subject in content["subjects"]:
        name, probs = subject["name"], probs_of[subject["name"]]
        matrix = confusion_matrix(labels, probs.argmax(-1), count)
        stage = stage_row(probs, labels, reference)
        content["accuracy"]["rows"].append(
            {
                "subject": name, "runner": runner, "precision": subject["precision"],
                **accuracy_row(probs.argmax(-1) == labels), "top5": stage["top5"],
                "per_class": [
                    {
                        "class": classes[i], "n": int(matrix[i].sum()),
                        "recall": float(matrix[i, i] / matrix[i].sum()) if matrix[i].sum() else None,
                        "precision": float(matrix[i, i] / matrix[:, i].sum()) if matrix[:, i].sum() else None,
                    }
                    for i in range(count)
                ],
                "calibration_error": expected_calibration_error(probs, labels),
                "nll": negative_log_likelihood(probs, labels), "confusion": matrix.tolist() if small else None,
                "reference": {key: stage[key] for key in ("agreement", "gained", "lost", "mcnemar_p", "largest_difference")}
                if probs is not reference else None,
            }
        )  # fmt: skip
        content["ledgers"][0]["rows"].append(
            {
                "subject": name,
                "runner": runner,
                "stage": f"onnx_{subject['precision']}",
                "precision": subject["precision"],
                **stage,
            }
        )
        content["golden"].append(
            {
                "subject": name, "runner": runner, "n": 32, "input_equal": True, "jpeg_difference": 0,
                "largest_difference": 3.1e-6, "decided_argmax_equal": True, "agreement": 1.0, "passed": True,
            }
        )  # fmt: skip


def add_energy(
    rng: np.random.Generator, arrays: dict[str, np.ndarray], content: dict[str, Any], kind: str,
    subjects: tuple[str, ...], runner: str, batches: tuple[int, ...],
) -> None:  # fmt: skip
    rails = ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"] if kind == "jetson" else ["GPU 0"]
    idle_w = 9.4 if kind == "jetson" else 76.0
    accuracies = {row["subject"]: row["accuracy"] for row in content["accuracy"]["rows"]}
    rates = {
        (row["subject"], row["batch"]): row["images_per_s"] for row in content["latency"] if row["scope"] == "device"
    }
    rows = []
    for number, name in enumerate(subjects):
        for batch in batches:
            watts = idle_w * (1.9 + 0.2 * number) + batch / 8
            seconds = np.arange(0, 30, 0.05 if kind == "jetson" else 0.1)
            trace = watts * (1 - 0.3 * np.exp(-seconds)) + rng.normal(0, 0.03 * watts, len(seconds))
            key = f"energy_{name}_{runner}_{batch}".replace("/", "-")
            arrays[f"{key}_seconds"], arrays[f"{key}_watts"] = seconds, trace
            per_image = 1000 * watts / rates[name, batch]
            rows.append(
                {
                    "subject": name, "runner": runner, "batch": batch, "scope": "device", "trace": key, "seconds": 30.0,
                    "images": int(30 * rates[name, batch]), "mean_w": watts, "idle_w": idle_w, "net_w": watts - idle_w, "calls": int(30 * rates[name, batch] / batch),
                    "resolution": 0.001, "flags": ["window too short for the sensor"] if kind == "cuda" and number == 2 else [], "mj_per_image": per_image,
                    "net_mj_per_image": per_image * (1 - idle_w / watts), "images_per_joule": 1000 / per_image,
                    "mj_per_correct": per_image / accuracies[name],
                    "rails_w": {rail: watts / len(rails) for rail in rails},
                }
            )  # fmt: skip
    content["energy"] = {
        "meter": "INA3221 rails by hwmon, 20 Hz" if kind == "jetson" else "NVML energy counter", "note": None,
        "rails": rails, "total": rails, "estimate": kind == "jetson",
        "includes": "the module: GPU, CPU and memory; not the carrier board", "error": "several % of the reading", "error_w": 0.1,
        "idle": {"seconds": 10.0, "mean_w": idle_w, "rails_w": {rail: idle_w / len(rails) for rail in rails}},
        "rows": rows,
    }  # fmt: skip
