"""Runners: which session a name means, and which device `--device` means."""

from __future__ import annotations

from dhox.bench.bench_models import BenchModel
from dhox.errors import DhoxError, UsageError
from dhox.export.engines.cached_engine import open_cached_engine
from dhox.models.engines import find_engine, open_engine
from dhox.models.export_directory import Export
from dhox.runtimes.cuda import gpu
from dhox.runtimes.onnxruntime_api import PROVIDERS, default_device, why_not
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.runtime import Session
from dhox.runtimes.tensorrt_api import import_tensorrt
from dhox.runtimes.tensors import FRAMES
from dhox.system.jetson import is_jetson
from dhox.system.machine import DEVICES

# What a runner may be asked for after its name: --runner onnxruntime:graph+nhwc
OPTIONS = {"onnxruntime": {"graph", "nhwc"}, "ort-tensorrt": set(), "tensorrt": {"graph"}, "torch": {"graph"}}
ON_GPU_ONLY = {"ort-tensorrt", "tensorrt"}


def parse_runner(text: str) -> tuple[str, frozenset[str]]:
    """The name and the options of NAME[:OPTION[+OPTION]]. Raises UsageError for what no runner is or takes."""
    name, _, rest = text.partition(":")
    options = frozenset(rest.split("+")) if rest else frozenset()
    if name not in OPTIONS or (not rest and ":" in text):
        raise UsageError(f"--runner {text} is unknown.", f"Use one of: {', '.join(OPTIONS)}, or onnxruntime:graph.")
    if unknown := sorted(options - OPTIONS[name]):
        takes = f"takes {', '.join(sorted(OPTIONS[name]))}" if OPTIONS[name] else "takes no options"
        raise UsageError(f"--runner {text}: {name} has no option {unknown[0]!r} ({takes}).", "Leave it out.")
    return name, options


def check_runner(text: str, device: str) -> None:
    """Raise UsageError for a runner that is unknown, or that contradicts the device (see `choose_device`)."""
    name, options = parse_runner(text)
    if device == "cpu" and (name in ON_GPU_ONLY or options):
        where = "tensorrt" if name == "tensorrt" else "cuda"
        raise UsageError(
            f"--runner {text} needs a GPU, and the device is cpu.", f"Use --device {where}, or another runner."
        )


def open_runner(model: BenchModel, runner: str, device: str, trust_engine: bool = False) -> Session:
    """Open a model with a runner on a device of `choose_device`; `close` it.

    `tensorrt` is the newest fitting engine of the export, or, without an export, one that is built and kept here.
    Raises UsageError as `check_runner` does, and DhoxError where the runtime, the GPU, an engine or the run is missing.
    """
    check_runner(runner, device)
    name, options = parse_runner(runner)
    names = model.input_name, model.output_name
    if name == "tensorrt":
        gpu()
        if model.export is None or model.manifest is None:
            return open_cached_engine(model.file, model.precision, names, runner)
        file = model.camera_file if model.input_kind == FRAMES else None
        return open_engine(Export(model.export, model.manifest), model.precision, trust_engine, runner, file)
    if name == "torch":
        if model.camera is not None:
            raise DhoxError("torch takes no raw frames.", "Leave it out of the scope camera.")
        from dhox.bench.runners.torch_reference import open_torch_session  # torch is not on a board

        return open_torch_session(model, runner, device, options)
    where = name if name == "ort-tensorrt" else "cpu" if device == "cpu" else "cuda"
    return OnnxSession(model.file, where, precision=model.precision, names=names, options=options, name=runner)


def default_runners(device: str, model: BenchModel) -> list[str]:
    """The runners of a model where none is asked for; `device` is one of `choose_device`.

    `jetson` means TensorRT where the export holds an engine of the model for this board, else ONNX Runtime on CUDA.
    """
    if device == "tensorrt" or (device == "jetson" and why_no_engine(model) is None):
        return ["tensorrt"]
    return ["onnxruntime"]


def why_no_engine(model: BenchModel) -> str | None:
    """Why the export of a model has no engine for this machine, or None where it has one."""
    if model.export is None or model.manifest is None:
        return f"{model.file} has no export"
    try:
        file = model.camera_file if model.input_kind == FRAMES else None
        find_engine(Export(model.export, model.manifest), model.precision, import_tensorrt(), gpu(), file)
    except DhoxError as err:
        return str(err)
    return None


def choose_device(asked: str, models: list[BenchModel]) -> str:
    """The device, cpu, cuda, tensorrt or jetson, that `--device` means on this machine.

    Raises UsageError for an unknown one, and DhoxError where it is not there. `jetson` never falls back to the CPU: it
    is TensorRT with an engine of the export, else ONNX Runtime on CUDA, else an error with the reasons against both.
    Without `models`, whose engines are still to be built, the board alone decides.
    """
    if asked not in DEVICES:
        raise UsageError(f"--device {asked} is unknown.", f"Use one of: {', '.join(DEVICES)}.")
    if asked == "auto":
        return default_device()
    if asked == "jetson" and not is_jetson():
        raise DhoxError(
            "--device jetson: this machine is not a Jetson (its device tree names no NVIDIA Tegra).",
            "Measure a board "
            "from here with --host USER@BOARD, run dhox bench on the board itself, or use --device cpu or cuda here.",
        )
    if asked == "tensorrt":
        gpu()
        import_tensorrt()
    if asked == "cuda" and (reason := _why_no_cuda()):
        raise DhoxError(
            f"--device cuda: {reason}. With an NVIDIA GPU, install onnxruntime-gpu in place of onnxruntime: "
            "pip install 'dhox[cuda]'; `dhox doctor` shows what is missing.",
            "TensorRT engines need neither: --device tensorrt.",
        )
    if asked == "jetson" and models and (reason := _why_no_cuda()):
        missing = [reason for reason in map(why_no_engine, models) if reason is not None]
        if len(missing) == len(models):  # else those without an engine are named as not run
            raise DhoxError(
                f"--device jetson: no TensorRT engine ({missing[0].rstrip('.')}), and {reason}.",
                "Build an engine here: "
                "dhox export EXPORT --tensorrt; or install JetPack's build of onnxruntime-gpu into this environment.",
            )
    return asked


def _why_no_cuda() -> str | None:
    """Why ONNX Runtime does not compute on CUDA here, or None where it does."""
    try:
        return why_not(PROVIDERS["cuda"])
    except DhoxError as err:
        return str(err).rstrip(".")
