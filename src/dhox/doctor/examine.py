"""`dhox doctor`: what this machine can do, what it lacks, and what fixes that here. Nothing is installed or changed."""

from __future__ import annotations

from pathlib import Path

from dhox.artefacts.files import free_bytes
from dhox.bench.power_modes import RESTORE, left_over
from dhox.bench.sensors.energy import find_meter
from dhox.doctor.backends import Finding, Place, find_backends, this_place
from dhox.errors import DhoxError
from dhox.system.jetson import jetson_card
from dhox.system.machine import cpu_model

LITTLE_SPACE = 2e9  # bytes; an export with engines and a bench take less, a training on photographs more


def examine() -> list[Finding]:
    """What dhox can do here, then every part that decides it."""
    place = this_place()
    backends = find_backends(place)
    return [
        *abilities(backends, place),
        Finding("processor", True, cpu_model()),
        *board(),
        *backends,
        *energy(place),
        disk(),
        *state(),
    ]


def abilities(backends: list[Finding], place: Place) -> list[Finding]:
    """The commands that work here, by the parts that they need."""

    def works(beginning: str) -> bool:
        return all(finding.works for finding in backends if finding.what.startswith(beginning))

    cpu, gpu = works("onnxruntime CPU"), works("onnxruntime CUDA")
    engines = works("tensorrt (") and works("CUDA runtime")
    export = all(works(part) for part in ("torch (", "onnx (", "onnxscript ("))
    distill = all(works(part) for part in ("torch (", "open_clip", "timm"))
    see = "see the rows below"
    rows = [
        Finding("dhox bench --device cpu", cpu, "ONNX Runtime", see),
        Finding("dhox bench --device cuda", gpu, "ONNX Runtime", see),
        Finding("dhox bench --device tensorrt", engines, "TensorRT engines; also dhox export EXPORT --tensorrt", see),
    ]
    if place.gpu == "jetson":
        rows.append(
            Finding("dhox bench --device jetson", engines or gpu, "TensorRT, else ONNX Runtime on the GPU", see)
        )
    return [
        *rows,
        Finding("dhox export RUN", export, "torch, onnx and onnxscript", see),
        Finding("dhox distill", distill, "torch, open_clip and timm" + _training_place(backends), see),
    ]


def _training_place(backends: list[Finding]) -> str:
    on_gpu = any(finding.works for finding in backends if finding.what.startswith("torch on CUDA"))
    return ", on the GPU" if on_gpu else ", on the CPU"


def board() -> list[Finding]:
    """The card of a Jetson as rows; elsewhere the row that says so."""
    card = jetson_card()
    what = "Jetson (bench --device jetson)"
    if card is None:
        return [
            Finding(what, False, "no NVIDIA Tegra in the device tree", "run dhox bench on the board, or with --host")
        ]
    mode = card.power_mode
    gpu = card.gpu_clock_mhz
    clock = f"GPU at {gpu.current} MHz of {gpu.min} to {gpu.max}" if gpu else "the GPU's clock cannot be read"
    release = f"L4T {card.l4t or 'unknown'}, JetPack {card.jetpack or 'unknown: no table names this L4T'}"
    chip = f"{card.soc}, compute capability {card.compute_capability or 'unknown'}"
    return [
        Finding(what, True, f"{card.model} ({card.module or 'unknown module'}; {chip}); {release}"),
        Finding(
            "power mode",
            mode is not None,
            f"{mode.name} (id {mode.id})" if mode else card.power_mode_note or "unknown",
            "bench cannot tell at which power it measured: mount nvpmodel into the container, or run as root",
        ),
        Finding(
            "clocks held (jetson_clocks)",
            card.jetson_clocks == "on",
            f"{card.jetson_clocks}; {clock}",
            "for steady figures: sudo jetson_clocks",
        ),
    ]


def energy(place: Place) -> list[Finding]:
    """Which meter reads the energy of runs, by the device that they are on."""
    found = []
    for device in ("cpu", "cuda") if place.gpu == "nvidia" else ("cuda",) if place.gpu == "jetson" else ("cpu",):
        meter, reason = find_meter(device)
        what = "energy of the board" if place.gpu == "jetson" else f"energy of runs on {device}"
        if meter is None:
            found.append(Finding(what, False, "not measured", reason))
        else:
            found.append(Finding(what, True, meter.name))
            meter.close()
    return found


def disk() -> Finding:
    """Free space where commands write."""
    free = free_bytes(Path())
    return Finding("disk space here", free >= LITTLE_SPACE, f"{free / 1e9:.1f} GB free", "free some, or work elsewhere")


def state() -> list[Finding]:
    """A power mode that a killed sweep left behind; no row where there is none."""
    try:
        other = left_over()
    except DhoxError as err:
        return [Finding("power mode of a sweep", False, "its state file is damaged", str(err))]
    if other is None:
        return []
    mode = f"{other.original.name} (id {other.original.id})"
    if other.running:
        return [
            Finding("power mode of a sweep", True, f"dhox bench --power-modes runs (process {other.pid}); was {mode}")
        ]
    return [
        Finding(
            "power mode of a sweep",
            False,
            f"dhox bench --power-modes was killed (started {other.started_at}) and left another power mode than {mode}",
            RESTORE,
        )
    ]
