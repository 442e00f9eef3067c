"""`dhox doctor`: what this machine can run, and why not. Nothing is installed or changed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from dhox.jetson import jetson_card
from dhox.machine import cpu_model


@dataclass(frozen=True)
class Finding:
    """One thing that dhox can use: whether it works here, what was found, and what to do where it does not."""

    what: str
    works: bool
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Import every optional part, and say what it makes possible."""
    return [
        Finding("processor", True, cpu_model()),
        board(),
        onnxruntime_provider("CPUExecutionProvider", "bench and predict on the CPU", "pip install 'dhox[cpu]'"),
        onnxruntime_provider(
            "CUDAExecutionProvider",
            "bench and predict on an NVIDIA GPU",
            "pip install 'dhox[cuda]' in place of dhox[cpu]; on a Jetson, JetPack's build of onnxruntime-gpu",
        ),
        package("torch", "distill and export", "pip install 'dhox[export]'"),
        torch_cuda(),
        package("open_clip", "teachers", "pip install 'dhox[distill]'"),
        package("timm", "students", "pip install 'dhox[distill]'"),
        package("onnxscript", "ONNX export", "pip install 'dhox[export]'"),
        package(
            "tensorrt",
            "TensorRT engines",
            "on a Jetson use JetPack's python3-libnvinfer; else pip install 'dhox[tensorrt]'",
        ),
        package("matplotlib", "report.html", "pip install 'dhox[report]'"),
        package("pyarrow", "Parquet manifests", "pip install 'dhox[parquet]'"),
    ]


def board() -> Finding:
    """Whether this is a Jetson."""
    found = jetson_card()
    if found is None:
        return Finding(
            "Jetson (bench --device jetson)", False, "no NVIDIA Tegra in the device tree", "run dhox bench on the board"
        )
    return Finding("Jetson (bench --device jetson)", True, f"{found['model']} {found['l4t']}".strip())


def package(module: str, use: str, advice: str) -> Finding:
    """Whether a module imports; its own error text says why not (presence is not loadability)."""
    try:
        imported = import_module(module)
    except Exception as err:
        return Finding(f"{module} ({use})", False, f"{type(err).__name__}: {err}", advice)
    return Finding(f"{module} ({use})", True, str(getattr(imported, "__version__", "installed")))


def onnxruntime_provider(provider: str, use: str, advice: str) -> Finding:
    """Whether ONNX Runtime offers a provider."""
    what = f"onnxruntime {provider} ({use})"
    try:
        ort = import_module("onnxruntime")
    except Exception as err:
        return Finding(what, False, f"{type(err).__name__}: {err}", advice)
    providers = ort.get_available_providers()
    if provider in providers:
        return Finding(what, True, f"onnxruntime {ort.__version__}")
    return Finding(what, False, f"onnxruntime {ort.__version__} has: {', '.join(providers)}", advice)


def torch_cuda() -> Finding:
    """Whether torch sees a CUDA device."""
    what = "torch on CUDA (distill --device cuda)"
    try:
        torch = import_module("torch")
    except Exception as err:
        return Finding(what, False, f"{type(err).__name__}: {err}", "pip install 'dhox[distill]'")
    if torch.cuda.is_available():
        return Finding(what, True, torch.cuda.get_device_name(0))
    return Finding(
        what, False, "torch finds no CUDA device", "needs an NVIDIA GPU, its driver and a CUDA build of torch"
    )
