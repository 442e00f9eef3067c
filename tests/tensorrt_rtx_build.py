"""Parse and build an ONNX file with TensorRT-RTX on the CPU: a real TensorRT compiler to hold every graph against."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest


def build(model: Path | bytes) -> Counter[str]:
    """Parse strongly typed, build an engine for batches 1 to 16, and count the layers by the type of their output.

    Fails the test with the parser's or the builder's own words. It cannot run the engine: that needs a GPU.
    """
    return build_plan(model)[0]


def fused_attentions(plan: bytes) -> int:
    """How many attentions of a built plan are one kernel: the plan names its kernels in clear text."""
    return len(re.findall(rb"function=\{ name=_gemm_mha", plan))


def build_plan(model: Path | bytes) -> tuple[Counter[str], bytes]:
    """What `build` counts, and the plan."""
    trt = pytest.importorskip("tensorrt_rtx")
    messages: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def log(self, severity: object, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.append(text)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    content = model if isinstance(model, bytes) else model.read_bytes()
    if not parser.parse(content):
        pytest.fail(
            "TensorRT-RTX does not parse it: " + "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        )
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    image = network.get_input(0)
    fixed = tuple(image.shape)[1:]
    profile.set_shape(image.name, (1, *fixed), (8, *fixed), (16, *fixed))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        pytest.fail("TensorRT-RTX does not build it: " + "; ".join(messages))
    types = Counter(str(network.get_layer(i).get_output(0).dtype).split(".")[-1] for i in range(network.num_layers))
    return types, bytes(engine)
