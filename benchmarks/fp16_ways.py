"""Four ways to an fp16 graph, on the same students: dhox, ONNX Runtime's converter, ModelOpt AutoCast, a typed export.

    python benchmarks/fp16_ways.py
    python benchmarks/fp16_ways.py --modelopt VENV/bin/python   # a virtual environment with nvidia-modelopt[onnx]

Students have random weights and BatchNorm statistics that fit them; `resnet18, large` is the same function with
activations beyond 65504 inside one block. ModelOpt brings onnxruntime-gpu, so it runs in an environment of its own and
its rows appear only where that is given. Columns: share of convolutions and matrix products in fp16, Cast nodes,
largest difference of a probability to fp32 in emulation (fp32 sums, fp16 storage) and in ONNX Runtime's CPU provider,
seconds of the conversion, opset, and whether TensorRT-RTX builds it strongly typed.
"""

from __future__ import annotations

import argparse
import copy
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import pytest
from tensorrt_rtx_build import build

from dhox.distill.students.student import create_backbone, preprocessing_of, with_heads
from dhox.export.folding.fold import Fold
from dhox.export.graphs.backbone import exportable
from dhox.export.graphs.graph import Deployable, StackedHead, folded_head, head_arrays
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.half_precision.calibrated import PRODUCT_OPS, to_half
from dhox.export.half_precision.convert import fp32_nodes
from dhox.export.half_precision.emulated import HALF, emulated, typed_graph
from dhox.export.half_precision.sensitivity import largest_difference
from dhox.runtimes.onnxruntime_api import open_session

STUDENTS = [
    "mobilenetv2_100", "convnext_atto", "vit_tiny_patch16_224", "efficientvit_b0", "resnet18", "repvit_m1",
]  # fmt: skip
SIZE = 64
IMAGES = 32
SCALE = 1e5
AUTOCAST = """
import sys, onnx
from modelopt.onnx.autocast import convert_to_mixed_precision
source, target, data, *keep = sys.argv[1:]
onnx.save(convert_to_mixed_precision(
    source, "fp16", nodes_to_exclude=keep, keep_io_types=True, calibration_data=data, opset=18), target)
"""


def images() -> np.ndarray:
    """Smooth random images, uint8 [N, SIZE, SIZE, 3]."""
    random = np.random.default_rng(0)
    cells = (random.integers(0, 256, (int(n), int(n), 3), dtype=np.uint8) for n in random.integers(2, 24, IMAGES))
    return np.stack([np.asarray(Image.fromarray(c).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for c in cells])


def student(name: str, large: bool) -> Deployable:
    """A student with random weights on calibrated BatchNorm, exact fold of two heads of 20 classes."""
    torch.manual_seed(0)
    backbone, config = create_backbone(name, "none", SIZE)
    model = with_heads(backbone, SIZE, 20, two_heads=True).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(16, 3, SIZE, SIZE))
        if large:
            block = model.backbone.get_submodule("layer2.0")
            for parameter in block.bn1.parameters():
                parameter.mul_(SCALE)
            block.conv2.weight.div_(SCALE)
    head = folded_head(head_arrays(model), Fold("exact", 0.4, 0.5))
    return Deployable(exportable(model.backbone), head, preprocessing_of(config), "uint8-nhwc").eval()


class HalfBackbone(nn.Module):
    """A backbone in fp16 behind an fp32 normalisation."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone).half()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """fp16 features of normalised images."""
        return self.backbone(image.half())


def typed(module: Deployable) -> bytes:
    """Exported from torch with fp16 modules."""
    head = copy.deepcopy(module.head)
    assert isinstance(head, StackedHead)
    head.linear.half()
    half = copy.deepcopy(module)
    half.backbone, half.head = HalfBackbone(module.backbone), head
    return export_onnx(half.eval(), SIZE, {})


def by_onnxruntime(fp32: bytes) -> bytes:
    """onnxruntime.transformers.float16, the normalisation and the head's tail blocked."""
    model = onnx.load_from_string(fp32)
    keep = list(fp32_nodes(model.graph))
    converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True, node_block_list=keep))
    converted.topological_sort()  # it appends its casts at the end, which onnx.checker refuses
    content: bytes = converted.model.SerializeToString()
    return content


def by_autocast(fp32: bytes, batch: np.ndarray, python: str) -> bytes:
    """ModelOpt AutoCast, calibrated on `batch`, the normalisation and the head's tail excluded."""
    keep = [f"^{re.escape(name)}$" for name in fp32_nodes(onnx.load_from_string(fp32).graph)]
    with tempfile.TemporaryDirectory() as folder:
        source, target, data = (Path(folder, name) for name in ("in.onnx", "out.onnx", "data.npz"))
        source.write_bytes(fp32)
        np.savez(data, image=batch)
        done = subprocess.run([python, "-c", AUTOCAST, source, target, data, *keep], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return target.read_bytes()


def share(content: bytes) -> float:
    """Share of convolutions and matrix products whose result is fp16."""
    graph = typed_graph(content).graph
    half = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == HALF}
    products = [node for node in graph.node if node.op_type in PRODUCT_OPS]
    return sum(node.output[0] in half for node in products) / len(products)


def difference(content: Callable[[], bytes], batch: np.ndarray, expected: np.ndarray) -> str:
    """The largest difference of a probability, or the first words of what went wrong."""
    try:
        session = open_session(content())
        return f"{largest_difference(session.run(None, {'image': batch})[0], expected):.1e}"
    except Exception as error:
        return " ".join(str(error).split()[:12])


def builds(content: bytes) -> str:
    """Whether TensorRT-RTX parses and builds it."""
    try:
        build(content)
    except pytest.fail.Exception as error:
        return " ".join(str(error).split()[:16])
    return "yes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modelopt", default=sys.executable, help="the interpreter of an environment with ModelOpt")
    parser.add_argument("--students", nargs="+", default=STUDENTS)
    options = parser.parse_args()
    has_modelopt = not subprocess.run([options.modelopt, "-c", "import modelopt.onnx"], capture_output=True).returncode
    timm.layers.set_fused_attn(False)
    batch = images()
    print("| student | way | share | casts | emulated | ORT CPU | seconds | opset | TensorRT-RTX |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, large in [("resnet18", True)] + [(name, False) for name in options.students]:
        module = student(name, large)
        fp32 = export_onnx(module, SIZE, {})
        expected = open_session(fp32).run(None, {"image": batch})[0]
        ways: dict[str, Callable[[], bytes]] = {
            "dhox": lambda: to_half(fp32, {}, [batch]).content,  # noqa: B023
            "ONNX Runtime": lambda: by_onnxruntime(fp32),  # noqa: B023
            "typed export": lambda: typed(module),  # noqa: B023
        }
        if has_modelopt:
            ways["AutoCast"] = lambda: by_autocast(fp32, batch, options.modelopt)  # noqa: B023
        for way, convert in ways.items():
            title = f"{name}, large" if large else name
            start = time.perf_counter()
            try:
                content = convert()
            except Exception as error:
                print(f"| {title} | {way} | fails: {' '.join(str(error).split()[:16])} | | | | | | |", flush=True)
                continue
            seconds = time.perf_counter() - start
            model = onnx.load_from_string(content)
            casts = sum(node.op_type == "Cast" for node in model.graph.node)
            opset = next(entry.version for entry in model.opset_import if not entry.domain)
            real = difference(lambda: content, batch, expected)  # noqa: B023
            judged = difference(lambda: emulated(content), batch, expected)  # noqa: B023
            print(
                f"| {title} | {way} | {share(content):.2f} | {casts} | {judged} | {real} | {seconds:.1f} | {opset} | "
                f"{builds(content)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
