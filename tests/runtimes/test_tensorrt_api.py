"""Every TensorRT name and call in the code, held against the real TensorRT-RTX module, which shares TensorRT's API.

TensorRT itself cannot be installed where these tests run. The same names were read in the source of its Python bindings
(github.com/NVIDIA/TensorRT, python/src, branches release/10.3 and release/10.16, and 11.1): all of them are there.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from refusals import refuses

from dhox.runtimes.tensorrt_api import check_version, how_to_install, import_tensorrt, message_logger, numbers

trt = pytest.importorskip("tensorrt_rtx")

ROOT = Path(__file__).parents[2]
FILES = (
    "src/dhox/runtimes/tensorrt_api.py",
    "src/dhox/runtimes/tensorrt_session.py",
    "export/engines/compile_engine.py",
    "export/engines/precision_proof.py",
)
# How the code calls TensorRT's objects, and the class of each.
OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "runtime_config": "IRuntimeConfig",
    "context": "IExecutionContext",
    "profile": "IOptimizationProfile",
    "image": "ITensor",
    "tensor": "ITensor",
    "layer": "ILayer",
    "self.runtime": "Runtime",
    "self.engine": "ICudaEngine",
    "self.context": "IExecutionContext",
    "inspector": "EngineInspector",
    "network.get_layer(...)": "ILayer",
    "network.get_layer(...).get_output(...)": "ITensor",
    "layer.get_output(...)": "ITensor",
    "layer.get_input(...)": "ITensor",
    "inputs[...]": "ITensor",
    "parser.get_error(...)": "ParserError",
    "config.get_timing_cache(...)": "ITimingCache",
}
# Names that TensorRT-RTX has too, but that do something in TensorRT only; what RTX does instead is tested below.
# Pages, below docs.nvidia.com/deeplearning/tensorrt/:
ONLY_TENSORRT = {
    # latest/_static/python-api/infer/Core/BuilderConfig.html (RTX: "no-ops in TensorRT-RTX")
    "IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache", "IBuilderConfig.get_timing_cache",
    "ITimingCache.serialize",
    # 10.16.1/inference-library/work-with-dla.html
    "Builder.num_DLA_cores", "IBuilderConfig.can_run_on_DLA", "IBuilderConfig.default_device_type",
    "IBuilderConfig.DLA_core", "Runtime.DLA_core", "DeviceType.DLA", "BuilderFlag.GPU_FALLBACK",
    # 10.16.1/inference-library/version-compatibility.html
    "BuilderFlag.VERSION_COMPATIBLE", "Runtime.engine_host_code_allowed",
    # 11.1.0/inference-library/engine-compatibility.html, "Hardware Compatibility"
    "IBuilderConfig.hardware_compatibility_level", "HardwareCompatibilityLevel.AMPERE_PLUS",
}  # fmt: skip


def spelled(node: ast.expr) -> str:
    """An expression as OBJECTS spells it: arguments and indices as `...`."""
    if isinstance(node, ast.Call):
        return f"{spelled(node.func)}(...)"
    if isinstance(node, ast.Subscript):
        return f"{spelled(node.value)}[...]"
    if isinstance(node, ast.Attribute):
        return f"{spelled(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def uses() -> dict[str, set[int]]:
    """`Class.name` and `Enum.MEMBER` of TensorRT in the code -> numbers of arguments of its calls (empty: no call)."""
    found: dict[str, set[int]] = {}
    for file in FILES:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        calls = {id(node.func): len(node.args) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        starred = {
            id(node.func)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and any(isinstance(argument, ast.Starred) for argument in node.args)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            owner = spelled(node.value)
            if owner in OBJECTS:
                name = f"{OBJECTS[owner]}.{node.attr}"
            elif re.fullmatch(r"(trt\.)?api", owner):
                name = node.attr
            elif match := re.fullmatch(r"(?:trt\.)?api\.(\w+)(\.\w+)?", owner):
                name = f"{match[1]}{match[2] or ''}.{node.attr}"
            else:
                continue
            found.setdefault(name, set())
            if id(node) in calls and id(node) not in starred and node.attr != "__init__":
                found[name].add(calls[id(node)])
    return found


USES = uses()


def resolved(name: str) -> Any:
    value: Any = trt
    for part in name.split("."):
        value = getattr(value, part)
    return value


def parameters(signature: str) -> tuple[int, int]:
    """Fewest and most arguments after self of one signature as pybind11 writes it."""
    flat = signature
    while (shorter := re.sub(r"\[[^\[\]]*\]", "", flat)) != flat:
        flat = shorter
    names = [part for part in flat.split(", ") if part and not part.startswith("self")]
    return sum("=" not in name for name in names), len(names)


def test_the_walk_sees_the_code() -> None:
    assert len(USES) > 50
    assert {"Builder.create_network", "IExecutionContext.execute_async_v3", "ILogger.Severity"} <= set(USES)
    assert set(USES) >= ONLY_TENSORRT


@pytest.mark.parametrize("name", sorted(USES))
def test_every_name_and_call_exists(name: str) -> None:
    value = resolved(name)
    for count in USES[name]:
        signatures = re.findall(rf"{name.split('.')[-1]}\((self.*?)\) ->", value.__doc__ or "", re.DOTALL)
        if signatures:
            ranges = [parameters(signature) for signature in signatures]
            assert any(fewest <= count <= most for fewest, most in ranges), (count, signatures)
        else:
            assert isinstance(value, type) or name == "nptype", name


def test_enums_are_used_by_name() -> None:
    """The numbers behind STRONGLY_TYPED changed between TensorRT 10 and 11."""
    shifts = [
        node
        for file in FILES
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift) and isinstance(node.left, ast.Constant)
        and node.left.value == 1
    ]  # fmt: skip
    assert len(shifts) == 1
    assert "STRONGLY_TYPED" in ast.unparse(shifts[0].right)


def test_what_tensorrt_rtx_does_not_do() -> None:
    logger = message_logger(import_tensorrt("tensorrt_rtx"))
    builder = trt.Builder(logger)
    assert builder.num_DLA_cores == 0
    config = builder.create_builder_config()
    config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.NONE
    assert any("unsupported in TensorRT-RTX" in text for text in logger.warnings)


def test_logger_keeps_messages_by_severity() -> None:
    logger = message_logger(import_tensorrt("tensorrt_rtx"))
    severity = trt.ILogger.Severity
    for level, text in (
        (severity.ERROR, "e"),
        (severity.INTERNAL_ERROR, "i"),
        (severity.WARNING, "w"),
        (severity.INFO, "n"),
    ):
        logger.log(level, text)
    logger.log(severity.VERBOSE, "Layers:\nName: a, LayerType: gemm")
    assert (logger.errors, logger.warnings, logger.layers) == (["e", "i"], ["w"], "Layers:\nName: a, LayerType: gemm")


def test_import_prefers_tensorrt_and_says_how_to_get_it() -> None:
    found = import_tensorrt()
    assert (found.flavour, found.version) == ("tensorrt_rtx", trt.__version__)
    with refuses("No module named", at="runtimes.tensorrt_api.import_tensorrt", fix="dhox[tensorrt]"):
        import_tensorrt("tensorrt")
    assert "apt install python3-libnvinfer" in how_to_install(on_jetson=True)
    assert "Do not pip install" in how_to_install(on_jetson=True)
    assert "pip install" in how_to_install(on_jetson=False)


@pytest.mark.parametrize("version", ["8.6.2", "10.2.0.19", "9.3.0"])
def test_older_than_10_3_is_refused(version: str) -> None:
    with refuses(version, "10.3", at="runtimes.tensorrt_api.check_version"):
        check_version("tensorrt", version)


@pytest.mark.parametrize(
    ("flavour", "version"), [("tensorrt", "10.3.0"), ("tensorrt", "11.4.1"), ("tensorrt_rtx", "1.5.0.114")]
)
def test_supported_versions(flavour: str, version: str) -> None:
    check_version(flavour, version)
    assert numbers("10.3.0.26+cuda12.6") == (10, 3, 0, 26)
