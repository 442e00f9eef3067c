"""Bench directories made up for tables and pages: every section, on a CPU, a GPU and a Jetson."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from dhox.artefacts.bench import Bench, ExportLink, ModelRow, NotRun, RunnerFacts, RunnerRow, Settings
from dhox.artefacts.bench_accuracy import (
    Accuracy,
    AccuracyRow,
    ClassAccuracy,
    DeviceLedger,
    DeviceLedgerRow,
    GoldenRow,
    Paired,
)
from dhox.artefacts.bench_energy import Energy, EnergyRow, IdlePower
from dhox.artefacts.bench_latency import (
    ComparisonRow,
    CrossCheck,
    Drift,
    Effective,
    Key,
    LatencyMs,
    LatencyRow,
    StreamRow,
    WarmUp,
)
from dhox.artefacts.machine import (
    Clock,
    Conditions,
    DeviceCard,
    GpuCard,
    JetsonCard,
    Memory,
    SetPowerMode,
    Spread,
    SystemTensorRT,
    Warming,
)
from dhox.artefacts.predictions import Answer, write_predictions
from dhox.artefacts.record import write_record
from dhox.artefacts.samples import Calls, Samples, Trace, samples_name, write_samples
from dhox.evidence.statistics import (
    confusion_matrix,
    expected_calibration_error,
    mcnemar_p,
    negative_log_likelihood,
    percentile,
    wilson_interval,
)

ROUNDS = 40
CLASSES = ["bag", "dress", "sandal", "<b>trousers</b>", 'quo"te', "[red]shirt[/red]"]
DEVICE = {"cpu": "cpu", "cuda": "cuda", "jetson": "tensorrt"}
PROVIDER = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "jetson": None}

GPU = GpuCard(
    name="NVIDIA H200", compute_capability="9.0", driver="580.82", memory_bytes=150_754_820_096, power_limit_w=700.0,
    highest_clock_mhz=1980, mig=False,
)  # fmt: skip
JETSON = JetsonCard(
    model="NVIDIA Jetson AGX Orin Developer Kit", module="Jetson AGX Orin 64 GB", soc="tegra234",
    compute_capability="8.7", l4t="36.4.3", jetpack="6.2", power_mode=SetPowerMode(0, "MAXN"), power_mode_note=None,
    jetson_clocks="on", gpu_clock_mhz=Clock(current=1300.5, min=1300.5, max=1300.5, governor="nvhost_podgov"),
    memory_clock_mhz=None, memory_clock_note="only root may read it",
    temperature_c={"cpu-thermal": 47.0, "gpu-thermal": 48.5}, memory_bytes=65_000_000_000, python="3.10.12",
    tensorrt=SystemTensorRT(version="10.3.0.30-1+cuda12.5", why_not=None),
)  # fmt: skip


@dataclass
class Example:
    """What a bench is made of. Round medians of the model `drifting` rise by 8 % over the bench."""

    kind: str
    models: tuple[str, ...]
    batches: tuple[int, ...]
    classes: list[str]
    drifting: str | None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    samples: Samples = field(default_factory=lambda: Samples({}, {}))

    @property
    def runner(self) -> str:
        return {"cpu": "onnxruntime", "cuda": "onnxruntime:graph", "jetson": "tensorrt:graph"}[self.kind]

    @property
    def scopes(self) -> list[str]:
        return ["e2e", "pipeline"] if self.kind == "cpu" else ["device", "e2e", "pipeline"]

    def emulates(self, name: str) -> bool:
        return self.kind == "cpu" and self.precision(name) != "fp32"

    def precision(self, name: str) -> str:
        return name if name in {"fp32", "fp16", "bf16", "int8"} else "fp16"


def example(
    folder: Path,
    kind: str,
    *,
    models: tuple[str, ...] = ("fp32", "fp16", "int8"),
    batches: tuple[int, ...] = (1, 8, 32),
    classes: list[str] = CLASSES,
    drifting: str | None = None,
    second_runner: str | None = None,
) -> Bench:
    """Write FOLDER/bench.json, samples.npz and predictions.csv of a machine of one kind (cpu, cuda or jetson).

    A `second_runner` repeats the numbers of the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = Example(kind, models, batches, classes, drifting)
    timed = [number for number, name in enumerate(models) if not about.emulates(name)]
    latency = [row for number in timed for row in latency_rows(about, number)]
    accuracy, ledger = answers(about, folder)
    bench = Bench(
        status="complete", finished_at="2026-11-23T06:03:10.265294+00:00",
        device_asked="jetson" if kind == "jetson" else "auto", device=card(kind), settings=settings(about),
        method=[
            "perf_counter_ns around one synchronised call, the same for every runner.",
            "Every round visits all models in random order; nothing but the warm-up is dropped.",
        ],
        models=[model_row(about, number) for number in range(len(models))],
        runners=[runner_row(about, name, batch) for name in models for batch in batches],
        latency=latency, comparisons=comparisons(about, latency), streams=streams(about), conditions=conditions(kind),
        memory=Memory(peak_bytes=412_000_000, process_peak_bytes=380_000_000, method="MemAvailable, sampled."),
        energy=energy(about, latency, accuracy), accuracy=accuracy, ledgers=[ledger],
        golden=[
            GoldenRow(
                model=name, runner=about.runner, n=32, input_equal=True, jpeg_difference=0, largest_difference=3.1e-6,
                decided_argmax_equal=True, agreement=1.0, outputs_passed=True, passed=True,
            ) for name in models
        ],
        cross_checks=[
            CrossCheck(
                model=models[0], runner=about.runner, scope=scope, batch=1, version="10.3.0", field="computeMs",
                graph=True, theirs_ms=theirs, ours_ms=0.51, difference_percent=100 * (theirs / 0.51 - 1), p99_ms=0.6,
                n=1000, unstable=unstable, arguments=["--warmUp=500"], note="their clock",
            ) for scope, theirs, unstable in (("e2e", 0.514, False), ("device", 0.5, True))
        ],
        not_run=[] if kind != "cpu" else [
            NotRun(what="model", model="bf16", reason="ONNX Runtime's CPU provider has no bf16")
        ],
        environment={"python": "3.10.12", "numpy": "1.26.4", "onnxruntime": "1.23.2"},
    )  # fmt: skip
    if second_runner:
        bench = with_second_runner(bench, second_runner)
    write_record(folder / "bench.json", bench)
    write_samples(folder / "samples.npz", about.samples)
    return bench


def with_second_runner(bench: Bench, runner: str) -> Bench:
    """Every row twice."""

    def twice(rows: list) -> list:
        return rows + [msgspec.structs.replace(row, runner=runner) for row in rows]

    return msgspec.structs.replace(
        bench, runners=twice(bench.runners), latency=twice(bench.latency), golden=twice(bench.golden),
        accuracy=msgspec.structs.replace(bench.accuracy, rows=twice(bench.accuracy.rows)),
        energy=msgspec.structs.replace(bench.energy, rows=twice(bench.energy.rows)),
    )  # fmt: skip


def card(kind: str) -> DeviceCard:
    return DeviceCard(
        host={"cpu": "laptop", "cuda": "server", "jetson": "orin"}[kind], platform="Linux-6.8-example",
        machine="aarch64" if kind == "jetson" else "x86_64",
        cpu={"cpu": "AMD EPYC", "cuda": "Intel Xeon", "jetson": "ARMv8 Processor rev 1 (v8l)"}[kind], cpu_cores=12,
        memory_bytes=64_000_000_000, gpu=GPU if kind == "cuda" else None, jetson=JETSON if kind == "jetson" else None,
        sysroot=None,
    )  # fmt: skip


def settings(about: Example) -> Settings:
    return Settings(
        batches=list(about.batches), scopes=about.scopes, duration_s=10.0, energy_s=30.0, streams=[1, 2, 4],
        rounds=ROUNDS, seed=0, runners=[about.runner], images="32 golden images of the export, repeated",
    )  # fmt: skip


def conditions(kind: str) -> Conditions:
    return Conditions(
        sampled=412, sample_ms=1.2, gpu_clock_mhz=None if kind == "cpu" else Spread(1290.0, 1300.5, 1300.5),
        memory_clock_mhz=Spread(3199.0, 3199.0, 3199.0) if kind == "jetson" else None,
        cpu_clock_mhz=Spread(1800.0, 2200.0, 2200.0),
        temperature_c={} if kind == "cpu" else {"gpu": Warming(48.5, 61.0), "cpu": Warming(47.0, 58.5)},
        throttled=["software power cap"] if kind == "cuda" else [],
        locked={"cpu": None, "cuda": False, "jetson": True}[kind], note=None,
    )  # fmt: skip


def model_row(about: Example, number: int) -> ModelRow:
    name = about.models[number]
    precision = about.precision(name)
    return ModelRow(
        name=name, file=f"model.{precision}.onnx", path=f"/exports/{name}/model.{precision}.onnx",
        precision=precision, bytes=46_000_000 >> number, sha256=f"{number:064x}", input_kind="uint8-nhwc",
        export=ExportLink("/exports/run", "a" * 64), contract=None,
    )  # fmt: skip


def runner_row(about: Example, name: str, batch: int) -> RunnerRow:
    kind, precision = about.kind, about.precision(name)
    off = 3 if kind == "cuda" and precision == "int8" else 0
    facts = RunnerFacts(
        device=DEVICE[kind], provider_asked=PROVIDER[kind], provider=PROVIDER[kind], graph_asked=kind != "cpu",
        graph=kind != "cpu" and not off, graph_note="3 nodes run on the CPU" if off else None,
        precision_asked=precision, precision_proven=None if about.emulates(name) else precision,
        precision_note="the CPU provider computes half precision and Q/DQ in fp32" if about.emulates(name) else None,
        nodes_off_device=off,
    )  # fmt: skip
    return RunnerRow(model=name, runner=about.runner, batch=batch, open_s=1.25, facts=facts)


def latency_rows(about: Example, number: int) -> Iterator[LatencyRow]:
    """The rows of one model; their calls go to the samples."""
    name, kind = about.models[number], about.kind
    drifting = name == about.drifting
    for batch in about.batches:
        for scope in about.scopes:
            base = {"cpu": 4.0, "cuda": 0.22, "jetson": 0.64}[kind] * (1 - 0.25 * number % 0.9)
            base *= (0.4 + 0.6 * batch**0.8) * {"device": 1.0, "e2e": 1.25, "pipeline": 3.0}[scope]
            trend = np.linspace(1, 1.08, ROUNDS) if drifting else np.ones(ROUNDS)
            rounds = [base * step * (1 + about.rng.gamma(1.5, 0.012, 30)) for step in trend]
            key = Key(name, about.runner, batch, scope)
            about.samples.calls[key] = Calls(
                [np.round(one * 1e6).astype(np.int64) for one in rounds], 1000 + np.arange(ROUNDS) * 2.5 + number * 0.7
            )
            yield latency_row(key, np.concatenate(rounds), drifting, kind == "cuda")


def latency_row(key: Key, samples: np.ndarray, drifting: bool, throttled: bool) -> LatencyRow:
    p50 = percentile(samples, 50)
    return LatencyRow(
        model=key.model, runner=key.runner, batch=key.batch, scope=key.scope, samples=samples_name(*key),
        n=len(samples), rounds=ROUNDS,
        latency_ms=LatencyMs(
            **{f"p{p}": percentile(samples, p) for p in (50, 90, 95, 99)}, max=float(samples.max()),
            min=float(samples.min()), mean=float(samples.mean()), mad=0.01 * p50,
        ),
        p50_interval=(0.998 * p50, 1.003 * p50), p99_interval=(1.04 * p50, 1.09 * p50) if key.batch == 1 else None,
        images_per_s=1000 * key.batch / float(samples.mean()), cv=float(samples.std() / samples.mean()),
        round_cv=0.02 if drifting else 0.003, effective=Effective(38.5, len(samples)),
        drift=Drift(0.97 if drifting else 0.1, 0.08 if drifting else 0.001, drifting),
        flags=["drift"] * drifting + ["throttled"] * throttled, warm_up=WarmUp(0.6, True),
    )  # fmt: skip


def comparisons(about: Example, latency: list[LatencyRow]) -> list[ComparisonRow]:
    p50 = {(row.model, row.batch, row.scope): row.latency_ms.p50 for row in latency}
    rows = []
    for batch in about.batches:
        for scope in about.scopes:
            for name in [one for one in about.models[1:] if not about.emulates(one)]:
                ratio = p50[name, batch, scope] / p50[about.models[0], batch, scope]
                verdict = "faster" if ratio < 0.99 else "slower" if ratio > 1.01 else "no difference shown"
                rows.append(
                    ComparisonRow(
                        batch=batch, scope=scope, reference_model=about.models[0], reference_runner=about.runner,
                        model=name, runner=about.runner, ratio=ratio, interval=(0.99 * ratio, 1.01 * ratio),
                        verdict=verdict,
                    )
                )  # fmt: skip
    return rows


def streams(about: Example) -> list[StreamRow]:
    rates = {count: 900.0 * count**0.7 for count in (1, 2, 4)}
    return [
        StreamRow(
            model=about.models[0], runner=about.runner, batch=1, streams=count, images_per_s=rate,
            interval=(0.98 * rate, 1.02 * rate), p50_ms=1.1 * count**0.3, p99_ms=1.4 * count**0.4, n=900,
        )
        for count, rate in rates.items()
    ]  # fmt: skip


def answers(about: Example, folder: Path) -> tuple[Accuracy, DeviceLedger]:
    """Answers of a classifier that is right four times in five, the last model a little less; predictions.csv too."""
    rng, count, n = about.rng, len(about.classes), 600
    labels = rng.integers(0, count, n)
    logits = rng.normal(0, 1, (n, count)) + 2.6 * np.eye(count)[labels]
    probs_of = {}
    for number, name in enumerate(about.models):
        noisy = logits + (0.4 if number == len(about.models) - 1 else 0.01) * rng.normal(0, 1, logits.shape)
        probs_of[name] = np.exp(noisy) / np.exp(noisy).sum(-1, keepdims=True)
    names = about.classes
    write_predictions(
        folder / "predictions.csv",
        (
            (model, about.runner, f"test/{i}.jpg", Answer(names[labels[i]], names[int(row.argmax())], float(row.max())))
            for model, probs in probs_of.items()
            for i, row in enumerate(probs)
        ),
    )
    first = probs_of[about.models[0]]
    rows = [accuracy_row(about, name, probs, labels, first) for name, probs in probs_of.items()]
    accuracy = Accuracy(split="test", data="/data/shop", note=None, classes=names, rows=rows)
    ledger = DeviceLedger(
        export="/exports/run", images="600 validation images",
        rows=[
            DeviceLedgerRow(
                model=row.model, runner=row.runner, stage=f"onnx_{row.precision}", precision=row.precision, n=row.n,
                correct=row.correct, accuracy=row.accuracy, interval=row.interval, top5=row.top5,
                calibration_error=row.calibration_error,
                **{name: getattr(row.reference, name, None) for name in Paired.__struct_fields__},
            ) for row in rows
        ],
    )  # fmt: skip
    return accuracy, ledger


def accuracy_row(about: Example, name: str, probs: np.ndarray, labels: np.ndarray, first: np.ndarray) -> AccuracyRow:
    matrix = confusion_matrix(labels, probs.argmax(-1), len(about.classes))
    right, before = probs.argmax(-1) == labels, first.argmax(-1) == labels
    gained, lost = int((right & ~before).sum()), int((before & ~right).sum())
    return AccuracyRow(
        model=name, runner=about.runner, precision=about.precision(name), n=len(labels), correct=int(right.sum()),
        accuracy=float(right.mean()), interval=wilson_interval(int(right.sum()), len(labels)), top5=0.99,
        per_class=[
            ClassAccuracy(
                name=class_name, n=int(matrix[i].sum()),
                recall=float(matrix[i, i] / matrix[i].sum()) if matrix[i].sum() else None,
                precision=float(matrix[i, i] / matrix[:, i].sum()) if matrix[:, i].sum() else None,
            ) for i, class_name in enumerate(about.classes)
        ],
        calibration_error=expected_calibration_error(probs, labels), nll=negative_log_likelihood(probs, labels),
        confusion=matrix.tolist() if len(about.classes) <= 30 else None,
        reference=None if probs is first else Paired(
            agreement=float((probs.argmax(-1) == first.argmax(-1)).mean()), gained=gained, lost=lost,
            mcnemar_p=mcnemar_p(gained, lost), largest_difference=float(abs(probs - first).max()),
        ),
    )  # fmt: skip


def energy(about: Example, latency: list[LatencyRow], accuracy: Accuracy) -> Energy:
    """Of a GPU and of a board; a CPU's counter cannot be read."""
    if about.kind == "cpu":
        return Energy(note="not measured: no energy counter is readable (/sys/class/powercap needs root)")
    jetson = about.kind == "jetson"
    rails = ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"] if jetson else ["GPU 0"]
    idle_w = 9.4 if jetson else 76.0
    accuracies = {row.model: row.accuracy for row in accuracy.rows}
    rows = []
    for row in latency:
        if row.scope != "device":
            continue
        number = about.models.index(row.model)
        watts = idle_w * (1.9 + 0.2 * number) + row.batch / 8
        seconds = np.arange(0, 30, 0.05 if jetson else 0.1)
        trace = samples_name("energy", row.model, row.runner, row.batch)
        shape = watts * (1 - 0.3 * np.exp(-seconds)) + about.rng.normal(0, 0.03 * watts, len(seconds))
        about.samples.traces[trace] = Trace(seconds, shape, np.array([0.0, 30.0]))
        per_image = 1000 * watts / row.images_per_s
        rows.append(
            EnergyRow(
                model=row.model, runner=row.runner, batch=row.batch, scope="device", trace=trace, seconds=30.0,
                images=int(30 * row.images_per_s), calls=int(30 * row.images_per_s / row.batch), mean_w=watts,
                idle_w=idle_w, net_w=watts - idle_w, resolution=0.001,
                flags=["window too short for the sensor"] if not jetson and number == 2 else [],
                mj_per_image=per_image, net_mj_per_image=per_image * (1 - idle_w / watts),
                images_per_joule=1000 / per_image, mj_per_correct=per_image / accuracies[row.model],
                rails_w={rail: watts / len(rails) for rail in rails},
            )
        )  # fmt: skip
    return Energy(
        meter="INA3221 rails by hwmon, 20 Hz" if jetson else "NVML energy counter", rails=rails, total=rails,
        estimate=jetson, includes="the module: GPU, CPU and memory; not the carrier board",
        error="several % of the reading", error_w=0.1, rows=rows,
        idle=IdlePower(
            seconds=10.0, mean_w=idle_w, rails_w={rail: idle_w / len(rails) for rail in rails}, readings=200
        ),
    )  # fmt: skip
