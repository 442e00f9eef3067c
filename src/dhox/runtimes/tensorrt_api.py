"""TensorRT or TensorRT-RTX, whichever this machine has: import, version, messages (imported here only)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from dhox.errors import DhoxError
from dhox.system.jetson import is_jetson, tensorrt_found

OLDEST = (10, 3)  # JetPack 6.1
FLAVOURS = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT. `api`: the module; `flavour`: its name, tensorrt or tensorrt_rtx; `version`: as it says."""

    api: Any
    flavour: str
    version: str


def import_tensorrt(flavour: str | None = None) -> TensorRT:
    """The TensorRT of one flavour; by default `tensorrt`, else `tensorrt_rtx`.

    Raises DhoxError where none imports, or where TensorRT is older than 10.3 (TensorRT-RTX counts from 1.0).
    """
    reasons = []
    for name in FLAVOURS if flavour is None else (flavour,):
        try:
            api = import_module(name)
        except Exception as err:  # a broken installation raises whatever its loader raises
            reasons.append(f"{name}: {err}")
            continue
        check_version(name, str(api.__version__))
        return TensorRT(api, name, str(api.__version__))
    on_jetson = is_jetson()
    missing = tensorrt_found().why_not if on_jetson else None
    reasons += [missing] if missing else []
    raise DhoxError(f"TensorRT could not be imported ({'; '.join(reasons)}).", f"{how_to_install(on_jetson)}")


def check_version(flavour: str, version: str) -> None:
    """Raise DhoxError for a TensorRT older than 10.3."""
    if flavour == "tensorrt" and numbers(version)[:2] < OLDEST:
        raise DhoxError(
            f"TensorRT {version} is too old: dhox needs 10.3, whose strongly typed networks compute in the precision "
            "that the ONNX file states.",
            "On a Jetson install JetPack 6.1 or newer; elsewhere: pip install --upgrade 'dhox[tensorrt]'",
        )


def how_to_install(on_jetson: bool) -> str:
    """Where this kind of machine gets TensorRT from."""
    if on_jetson:
        return (
            "On a Jetson it comes with JetPack, for the system's Python only: sudo apt install python3-libnvinfer, and "
            "use dhox in an environment made with `python3 -m venv --system-site-packages`. Do not pip install it."
        )
    return "With an NVIDIA GPU, install it with: pip install 'dhox[tensorrt]'"


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 10.3.0.26 -> (10, 3, 0, 26)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0]))


def message_logger(trt: TensorRT) -> Any:
    """A TensorRT logger that keeps messages instead of printing them: `errors`, `warnings`, and `layers`, all empty.

    One for the whole process, since TensorRT goes on with the first while anything that was made with it lives.
    `layers`: what the builder says of the layers of the engine that it made, one line each (see
    `dhox.export.engines.precision_proof.layers_of_log`); TensorRT-RTX writes it even where there is no GPU.
    """
    logger = _logger(trt.api)
    logger.forget()
    return logger


@cache
def _logger(api: Any) -> Any:
    severity = api.ILogger.Severity

    class Messages(api.ILogger):
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.forget()

        def forget(self) -> None:
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.layers = ""

        def log(self, level: Any, text: str) -> None:
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                self.errors.append(text)
            elif level == severity.WARNING:
                self.warnings.append(text)
            elif text.startswith("Layers:\nName:"):
                self.layers = text

    return Messages()
