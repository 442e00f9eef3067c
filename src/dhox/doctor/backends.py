"""Whether each backend loads AND answers on this machine, why not, and what fixes it here. Nothing is installed."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from dhox.errors import DhoxError
from dhox.runtimes import cuda
from dhox.runtimes.onnxruntime_api import why_not
from dhox.runtimes.tensorrt_api import FLAVOURS, check_version, how_to_install
from dhox.system.compiler import COMPILER_ADVICE, missing_for_compile
from dhox.system.jetpack import JetPack, jetpack_of
from dhox.system.jetson import is_jetson, l4t, tensorrt_found
from dhox.system.sysroot import system_path

PROVIDERS = {
    "CPUExecutionProvider": "bench and predict on the CPU",
    "CUDAExecutionProvider": "bench and predict on an NVIDIA GPU",
    "TensorrtExecutionProvider": "bench --runner ort-tensorrt",
}


@dataclass(frozen=True)
class Finding:
    """One thing that dhox can use: whether it works here, what was found, and what to do where it does not."""

    what: str
    works: bool
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Place:
    """What decides the advice. `gpu`: "jetson", "nvidia" (a driver is loaded) or "none"; `jetpack`: of a Jetson."""

    gpu: str
    jetpack: JetPack | None


def this_place() -> Place:
    """Where this process runs."""
    if is_jetson():
        return Place("jetson", jetpack_of(l4t()))
    driver = system_path("/proc/driver/nvidia/version").exists() or system_path("/dev/dxg").exists()  # dxg: WSL 2
    return Place("nvidia" if driver else "none", None)


def _error_text(err: BaseException) -> str:
    """An exception as one line; loaders write many."""
    lines = str(err).strip().splitlines()
    return f"{type(err).__name__}: {lines[0] if lines else 'no message'}"


def package(module: str, use: str, advice: str) -> Finding:
    """Whether a module imports; its own error text says why not (presence is not loadability)."""
    try:
        imported = import_module(module)
    except Exception as err:
        return Finding(f"{module} ({use})", False, _error_text(err), advice)
    return Finding(f"{module} ({use})", True, str(getattr(imported, "__version__", "installed")))


def onnxruntime_provider(provider: str, place: Place) -> Finding:
    """Whether ONNX Runtime has a provider, and a session of a one-node graph really runs on it."""
    what = f"onnxruntime {provider} ({PROVIDERS[provider]})"
    advice = onnxruntime_advice(provider, place)
    try:
        ort = import_module("onnxruntime")
        reason = why_not(provider)
    except Exception as err:
        return Finding(what, False, _error_text(err), advice)
    if reason is not None:
        return Finding(what, False, reason, advice)
    return Finding(what, True, f"onnxruntime {ort.__version__}, ran a one-node graph")


def onnxruntime_advice(provider: str, place: Place) -> str:
    """Which build of ONNX Runtime brings a provider on this kind of machine."""
    if provider == "CPUExecutionProvider":
        return "pip install 'dhox[cpu]'"
    if place.gpu == "none":
        return "needs an NVIDIA GPU and its driver; --device cpu works without"
    if place.gpu == "nvidia":
        return "pip uninstall onnxruntime; pip install 'dhox[cuda]' (it needs the CUDA and cuDNN that it was built for)"
    if place.jetpack is not None and place.jetpack.python == "3.12":
        return (
            "use TensorRT: --device tensorrt (the ARM wheels of onnxruntime-gpu 1.29 to 1.31.1 hold no kernel for "
            "this GPU), or build ONNX Runtime for it"
        )
    return (
        "install the onnxruntime-gpu that NVIDIA's Jetson AI Lab builds for this JetPack and Python (the wheels of the "
        "usual index do not use this GPU), else TensorRT: --device tensorrt"
    )


def tensorrt(flavour: str, place: Place) -> Finding:
    """Whether TensorRT (or TensorRT-RTX) imports, with all its libraries, and is new enough."""
    use = "engines" if flavour == "tensorrt" else "experimental: engines for RTX GPUs"
    what = f"{flavour} ({use})"
    try:
        api = import_module(flavour)
        version = str(api.__version__)
        check_version(flavour, version)
        api.Logger(api.Logger.ERROR)  # of the library itself, which a stub package has not
    except DhoxError as err:
        return Finding(what, False, "too old", str(err))
    except Exception as err:
        why = tensorrt_found().why_not if place.gpu == "jetson" and flavour == "tensorrt" else None
        return Finding(what, False, f"{_error_text(err)}{f'. {why}' if why else ''}", tensorrt_advice(flavour, place))
    return Finding(what, True, version)


def tensorrt_advice(flavour: str, place: Place) -> str:
    """Where TensorRT comes from on this kind of machine."""
    if flavour == "tensorrt_rtx":
        return "needs an RTX GPU; pip install tensorrt-rtx-cu13"
    if place.gpu == "none":
        return "needs an NVIDIA GPU; then pip install 'dhox[tensorrt]'"
    if place.jetpack is not None and int(place.jetpack.version[0]) < 6:
        return "JetPack 6.1 is the oldest with a TensorRT that dhox supports (10.3); this board may not run it"
    return how_to_install(place.gpu == "jetson")


def cuda_runtime(place: Place) -> Finding:
    """Whether libcudart finds a GPU, and bytes survive the way there and back."""
    what = "CUDA runtime (engines without torch)"
    try:
        device = cuda.gpu()
        _copy_there_and_back()
    except DhoxError as err:
        found, _, own_advice = str(err).rstrip(".").partition(". ")
        advice = {
            "none": "needs an NVIDIA GPU and its driver",
            "jetson": "sudo apt install nvidia-jetpack; this user must be in the groups video and render; in a "
            "container, start it with the NVIDIA runtime",
        }
        return Finding(what, False, found, advice.get(place.gpu, own_advice))
    return Finding(what, True, f"{device.name}, compute capability {device.compute_capability}, copied 1 MB both ways")


def _copy_there_and_back() -> None:
    """Allocate, copy to the GPU, copy back, compare. Raises DhoxError where the bytes differ."""
    sent = np.arange(1 << 18, dtype=np.uint32)
    received = np.zeros_like(sent)
    address, stream = cuda.allocate(sent.nbytes), cuda.create_stream()
    try:
        cuda.to_device(address, sent, stream)
        cuda.to_host(received, address, stream)
        cuda.synchronize(stream)
    finally:
        cuda.destroy_stream(stream)
        cuda.free(address)
    if not np.array_equal(sent, received):
        raise DhoxError("The GPU gave back other bytes than it got.", "Reboot, and look into the kernel's log (dmesg)")


def nvml(place: Place) -> Finding:
    """Whether NVIDIA's management library answers; Jetson boards have it and it tells them almost nothing."""
    what = "NVML (clocks, energy of a discrete GPU)"
    if place.gpu == "jetson":
        return Finding(
            what, False, "not asked: on a Jetson it knows no power, energy or clocks", "rails are read instead"
        )
    try:
        library = import_module("pynvml")
        library.nvmlInit()
        count, driver = library.nvmlDeviceGetCount(), library.nvmlSystemGetDriverVersion()
        library.nvmlShutdown()
    except Exception as err:
        advice = "needs an NVIDIA GPU" if place.gpu == "none" else "pip install nvidia-ml-py"
        return Finding(what, False, _error_text(err), advice)
    return Finding(what, True, f"driver {driver}, {count} GPU{'s' * (count != 1)}")


def _torch_cuda(place: Place) -> Finding:
    what = "torch on CUDA (distill --device cuda)"
    try:
        torch = import_module("torch")
        if torch.cuda.is_available():
            return Finding(what, True, torch.cuda.get_device_name(0))
        build = torch.version.cuda
    except Exception as err:
        return Finding(what, False, _error_text(err), "pip install 'dhox[distill]'")
    found = f"torch {torch.__version__} finds no CUDA device" + ("" if build else " (it is a build without CUDA)")
    return Finding(what, False, found, "needs an NVIDIA GPU, its driver and a CUDA build of torch")


def torch_compile(place: Place) -> Finding:
    """Whether the compiler that torch.compile calls is there, for the device that a training would take."""
    device = "cpu" if place.gpu == "none" else "cuda"
    missing = missing_for_compile(device)
    default = "dhox distill --compile" if device == "cpu" else "dhox distill, on by default"
    found = "a compiler and Python's headers" if missing is None else f"not there: {missing}"
    return Finding(f"torch.compile ({default})", missing is None, found, COMPILER_ADVICE)


def find_backends(place: Place) -> list[Finding]:
    """Every backend in turn."""
    running = f"{platform.python_version()} at {sys.executable}"
    return [
        Finding("Python", sys.version_info >= (3, 10), running, "dhox needs Python 3.10 or newer"),
        *[onnxruntime_provider(provider, place) for provider in PROVIDERS],
        cuda_runtime(place),
        *[tensorrt(flavour, place) for flavour in FLAVOURS],
        nvml(place),
        package("torch", "distill and export", "pip install 'dhox[export]'"),
        _torch_cuda(place),
        torch_compile(place),
        package("open_clip", "teachers", "pip install 'dhox[distill]'"),
        package("timm", "students", "pip install 'dhox[distill]'"),
        package("onnx", "ONNX export", "pip install 'dhox[export]'"),
        package("onnxscript", "ONNX export", "pip install 'dhox[export]'"),
        package("matplotlib", "report.html", "pip install 'dhox[report]'"),
        package("pyarrow", "Parquet manifests", "pip install 'dhox[parquet]'"),
    ]
