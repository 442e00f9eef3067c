"""ONNX Runtime as a library: its providers, an InferenceSession on one of them, and which nodes ran where."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from dhox.errors import DhoxError, first_line, require
from dhox.models.onnx_file import check_onnx

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "ort-tensorrt": "TensorrtExecutionProvider",
}
# Abs of a float [1], IR 7, opset 13: it needs a kernel of its own, which a copy would not.
ONE_NODE = bytes.fromhex(
    "08073a320a0b0a0178120179220341627312"
    "01675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a020801"
    "42040a00100d"
)


@cache
def preload() -> None:
    """Load CUDA's libraries out of NVIDIA's wheels, before anything is asked: newer builds offer CUDA only then.

    What it prints is dropped (commands answer on standard output); a session that fails says what is missing.
    """
    ort = require("onnxruntime", "cpu")
    with redirect_stdout(StringIO()):
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()


def preload_tensorrt(provider: str) -> None:
    """Load TensorRT's libraries where this provider is the one that looks for them by name: they are large."""
    if provider == PROVIDERS["ort-tensorrt"]:
        with suppress(Exception):  # a broken installation raises whatever its loader raises; the session says why
            import_module("tensorrt")


def available_providers(device: str = "cuda") -> list[str]:
    """The providers that the installed ONNX Runtime can load. Raises DhoxError where it is not installed."""
    if device != "cpu":
        preload()
    return list(require("onnxruntime", "cpu").get_available_providers())


def why_not(provider: str) -> str | None:
    """Why ONNX Runtime computes nothing on a provider here, or None: a graph of one node is run on it, once.

    A list of providers says what was compiled in, not what starts: the wheel for GPUs lists CUDA on every machine.
    Raises DhoxError where ONNX Runtime is not installed.
    """
    ort = require("onnxruntime", "cpu")
    offered = available_providers("cpu" if provider == PROVIDERS["cpu"] else "cuda")
    if provider not in offered:
        return f"onnxruntime {ort.__version__} has: {', '.join(offered)}"
    try:
        used = _run_one_node(ort, provider)
    except Exception as err:  # ONNX Runtime's own exceptions share no type
        return f"onnxruntime {ort.__version__} lists it, a session fails: {type(err).__name__}: {first_line(err)}"
    return None if used == provider else f"onnxruntime {ort.__version__} lists it, a session fell back to {used}"


def _run_one_node(ort: Any, provider: str) -> str:
    """Run one node on a provider; answers with the provider that the session used."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    preload_tensorrt(provider)
    session = ort.InferenceSession(ONE_NODE, options, providers=[provider], enable_fallback=0)
    (answer,) = session.run(None, {"x": np.array([-1.0], np.float32)})
    if answer.tolist() != [1.0]:
        raise RuntimeError(f"the absolute value of -1 is {answer.tolist()}")
    return str(session.get_providers()[0])


def default_device() -> str:
    """What `auto` means: cuda where ONNX Runtime computes on it, else cpu; says so where it should and cannot."""
    reason = why_not(PROVIDERS["cuda"])
    if reason is None:
        return "cuda"
    if PROVIDERS["cuda"] in available_providers():
        words = f"On the CPU: {PROVIDERS['cuda']} does not start here ({reason}); `dhox doctor` shows what is missing."
        print(words, file=sys.stderr)
    return "cpu"


def open_session(
    model: Path | bytes,
    device: str = "cpu",
    profile: Path | None = None,
    provider_options: dict[str, str] | None = None,
    precision: str = "fp32",
    spinning: bool = True,
    in_file_order: bool = False,
) -> Any:
    """An InferenceSession on a provider of PROVIDERS; one that does not start is an error, never a silent CPU session.

    The file is read by dhox first (see check_onnx): what is no ONNX, or reaches out of its folder, never gets there.
    `precision`: fp32 means fp32 on a GPU too, without TF32; a half-precision file keeps its tensor cores.
    `profile`: the beginning of the name of the file that `nodes_run` reads. `provider_options`: of the first provider.
    `spinning`: whether its threads wait for the next call busily, as ONNX Runtime does by itself.
    `in_file_order`: a node runs as soon as those before it in the file have run; else the order is ONNX Runtime's.
    """
    check_onnx(model)
    ort = require("onnxruntime", "cpu")
    provider = PROVIDERS[device]
    if provider not in (offered := available_providers(device)):
        raise DhoxError(
            f"ONNX Runtime here has no {provider} (it has: {', '.join(offered)}).",
            "Install onnxruntime-gpu in place of onnxruntime (pip install 'dhox[cuda]'), or use --device cpu.",
        )
    preload_tensorrt(provider)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # int8 as a GPU computes it: the CPU provider's own fusions of Q/DQ saturate, and with an fp16 rest answer wrongly.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if in_file_order:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    # The golden tolerance of 1e-4 needs it. ONNX Runtime's convolutions take no tensor core then, in fp16 neither.
    exact = {"use_tf32": "0"} if precision == "fp32" else {}
    asked = provider_options or {}
    cpu = PROVIDERS["cpu"]
    providers: dict[str, list[Any]] = {
        "cpu": [cpu],
        "cuda": [(PROVIDERS["cuda"], exact | asked), cpu],
        "ort-tensorrt": [(provider, asked), (PROVIDERS["cuda"], exact), cpu],
    }
    content = model if isinstance(model, bytes) else str(model)
    advice = {
        "cpu": "Run `dhox doctor`.",
        "cuda": "Run `dhox doctor`, check the CUDA and cuDNN libraries, or use --device cpu.",
        "ort-tensorrt": "It needs TensorRT 10 (libnvinfer.so.10): pip install 'tensorrt<11', for the CUDA of "
        "onnxruntime-gpu; or use the runner tensorrt.",
    }[device]
    try:
        # Without enable_fallback=0 ONNX Runtime goes on with the CPU when a provider fails, now or in a later run.
        session = ort.InferenceSession(content, options, providers=providers[device], enable_fallback=0)
    except Exception as err:  # ONNX Runtime's own exceptions share no type
        if device == "cpu":
            raise
        raise DhoxError(f"ONNX Runtime could not start {provider} ({first_line(err)}).", advice) from err
    if session.get_providers()[0] != provider:
        raise DhoxError(
            f"ONNX Runtime could not start {provider} and fell back to {session.get_providers()[0]}.", advice
        )
    return session


def nodes_run(session: Any) -> list[tuple[str, str, str]]:
    """(name, operator, provider) of every node that a session with `profile` has run; it profiles no longer."""
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    suffix = "_kernel_time"
    return [
        (event["name"].removesuffix(suffix), event["args"]["op_name"], event["args"]["provider"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(suffix)
    ]
