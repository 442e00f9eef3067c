"""One ONNX file through TensorRT's parser and builder: the only place that calls them."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhox.artefacts.engine import EngineOptions, ParsedPrecision
from dhox.artefacts.files import user_cache, write_bytes
from dhox.errors import DhoxError
from dhox.export.engines.precision_proof import check_promise, network_products, parsed_precision
from dhox.models.onnx_file import check_onnx
from dhox.runtimes.cuda import Gpu
from dhox.runtimes.tensorrt_api import TensorRT

LARGEST_TIMING_CACHE = 256 << 20  # bytes
NO_MEMORY = re.compile(r"insuff?icient memory|out of ?memory|memory is insufficient|within workspace limit", re.I)


@dataclass(frozen=True)
class Compiled:
    """A serialised engine, the seconds of its build, and what its network said.

    `parsed`: see `parsed_precision`. `products`: see `network_products`. `on_gpu`: layers that DLA leaves to the GPU.
    """

    plan: bytes
    parsed: ParsedPrecision
    products: dict[str, str]
    on_gpu: list[str]
    seconds: float


def compile_onnx(
    onnx: Path, precision: str, trt: TensorRT, device: Gpu | None, options: EngineOptions, logger: Any
) -> Compiled:
    """Parse strongly typed and build. `logger`: of `message_logger`.

    Raises DhoxError in TensorRT's own words, and GateFailedError where the file is not typed as `precision` says.
    """
    if external := check_onnx(onnx).external:
        raise DhoxError(
            f"{onnx} keeps weights in {external[0]!r}, and an engine is built from one file.", "Export again."
        )
    start, content, api = time.perf_counter(), onnx.read_bytes(), trt.api
    builder = api.Builder(logger)
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = api.OnnxParser(network, logger)
    if options.dla is not None and hasattr(api.OnnxParserFlag, "ADJUST_FOR_DLA"):  # TensorRT 10.16 and newer
        parser.set_flag(api.OnnxParserFlag.ADJUST_FOR_DLA)
    if not parser.parse(content):
        words = "; ".join(" ".join(parser.get_error(i).desc().split()) for i in range(parser.num_errors))
        raise DhoxError(f"TensorRT's parser does not take {onnx} ({words}).", "Export it again, or report these words.")
    parsed = parsed_precision(network, precision)
    check_promise(precision, parsed, None)

    config = builder.create_builder_config()
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED  # so that the engine can say its layers' types
    config.clear_flag(api.BuilderFlag.TF32)  # fp32 means fp32: the golden tolerance of 1e-4 needs it
    if trt.flavour == "tensorrt_rtx":  # without it no CUDA graph is captured; see EngineSession.create_context
        config.set_flag(api.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    image = network.get_input(0)
    batch, *fixed = tuple(image.shape)
    if min(fixed) < 1:
        raise DhoxError(f"{onnx} leaves the size of its images open ({image.shape}).", "Export it with a fixed size.")
    batches = (options.smallest, options.usual, options.largest) if batch < 0 else (batch,) * 3
    profile = builder.create_optimization_profile()
    profile.set_shape(image.name, *((n, *fixed) for n in batches))
    config.add_optimization_profile(profile)
    _set_compatibility(api, config, options)
    on_gpu = [] if options.dla is None else _use_dla(api, builder, config, network, options.dla)
    cache = timing_cache_file(trt, device) if device and trt.flavour == "tensorrt" else None  # RTX: deprecated, no-op
    if cache is not None:
        _read_timing_cache(config, cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise build_error(logger.errors, logger.warnings)
    if cache is not None:
        with contextlib.suppress(OSError, DhoxError):  # timings are a convenience: no engine is lost for them
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(cache, bytes(config.get_timing_cache().serialize()))
    seconds = time.perf_counter() - start
    return Compiled(bytes(plan), parsed, network_products(network), on_gpu, seconds)


def _set_compatibility(api: Any, config: Any, options: EngineOptions) -> None:
    """Ask for version or hardware compatibility; raises DhoxError where this TensorRT has none."""
    if options.version_compatible:
        if not hasattr(api.BuilderFlag, "VERSION_COMPATIBLE"):
            raise DhoxError("This TensorRT builds no version-compatible engines.", "Leave out --version-compatible.")
        config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        level = api.HardwareCompatibilityLevel.AMPERE_PLUS
        config.hardware_compatibility_level = level
        if config.hardware_compatibility_level != level:
            raise DhoxError(
                "This TensorRT builds no hardware-compatible engines on request (TensorRT-RTX's run on all GPUs "
                "that it supports).",
                "Leave out --hardware-compatible.",
            )


def _use_dla(api: Any, builder: Any, config: Any, network: Any, core: int) -> list[str]:
    """Put what DLA can run on one of its cores and the rest on the GPU; answers with the names of the rest."""
    if core not in range(builder.num_DLA_cores):
        raise DhoxError(
            f"--dla {core}: TensorRT finds {builder.num_DLA_cores} DLA cores here. Orin Nano and Thor have none, and "
            "some versions of TensorRT use none.",
            "Leave out --dla, or name a core below that number.",
        )
    config.default_device_type = api.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(api.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    on_gpu = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if len(on_gpu) == len(layers):
        raise DhoxError(
            f"--dla {core}: DLA can run none of the {len(layers)} layers, all of them would go to the GPU.",
            "Leave out --dla. (DLA takes no Q/DQ of int8; strongly typed networks on it are documented from TensorRT "
            "11.4.1 on.)",
        )
    return on_gpu


def timing_cache_file(trt: TensorRT, device: Gpu) -> Path:
    """$XDG_CACHE_HOME/dhox/timing/GPU-SM-VERSION: kernels timed once make the next build faster and alike."""
    place = user_cache("timing")
    name = re.sub(r"\W+", "-", device.name)
    return place / f"{name}-sm{device.compute_capability}-{trt.version}.cache"


def _read_timing_cache(config: Any, path: Path) -> None:
    """Give the builder the timings of earlier builds; a damaged or foreign file counts as none."""
    usable = path.is_file() and path.stat().st_size <= LARGEST_TIMING_CACHE
    timings = config.create_timing_cache(path.read_bytes() if usable else b"")
    if timings is None or not config.set_timing_cache(timings, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def build_error(errors: list[str], warnings: list[str]) -> DhoxError:
    """Why a build failed, in TensorRT's words; what to do depends on whether memory was missing."""
    words = "; ".join(" ".join(text.split()) for text in errors[-3:] or warnings[-3:]) or "it gives no reason"
    if any(NO_MEMORY.search(text) for text in [*errors, *warnings]):
        return DhoxError(
            f"TensorRT had not enough memory to build the engine ({words}).",
            "Allow it more with --workspace MIB "
            "where there is more; else use a smaller --batch, or stop what else uses the memory.",
        )
    if "libnvinfer_lean" in words:
        return DhoxError(
            f"A version-compatible engine carries TensorRT's lean runtime, which is not here ({words}).",
            "Install the package libnvinfer-lean, or leave out --version-compatible.",
        )
    return DhoxError(f"TensorRT could not build the engine ({words}).", "Report these words with the ONNX file.")
