"""What each student becomes: its graph against torch in fp32 and fp16, where it runs, what TensorRT-RTX makes of it.

    python benchmarks/export_students.py [--students resnet18 ...] [--image-size 96] [--out table.md]

Random weights (BatchNorm statistics of 16 images, logits that spread by 1), ten classes, exact fold, batches of 1 and 5
other images of random blocks. TensorRT-RTX builds without a GPU; the differences are those of ONNX Runtime's CPU
provider, which computes much of fp16 in fp32.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import numpy as np
import onnx
import tensorrt_rtx as trt
import torch

from dhox.data.images import normalise
from dhox.distill.options import Student as StudentOptions
from dhox.distill.students.create import create_student
from dhox.distill.students.student import Student, parameters_m
from dhox.export.folding.fold import Fold
from dhox.export.graphs.backbone import exportable
from dhox.export.graphs.graph import Deployable, folded_head, head_arrays
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.graphs.placement import shape_arithmetic
from dhox.export.half_precision.convert import convert
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.system.environment import versions
from dhox.system.machine import cpu_model

STUDENTS = (
    "resnet18", "resnet50", "mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv4_conv_small",
    "tf_efficientnet_lite0", "efficientnet_b0", "efficientvit_b0", "fastvit_t8", "repvit_m1", "mobileone_s0",
    "convnext_atto", "tiny_vit_5m_224", "vit_tiny_patch16_224", "open_clip:ViT-B-16", "open_clip:MobileCLIP2-S0",
)  # fmt: skip
CLASSES = list("abcdefghij")
PRODUCTS = {"Conv", "Gemm", "MatMul"}


def random_student(name: str, image_size: int | None) -> tuple[Student, Deployable, Deployable, int]:
    """(student, as trained, as exported, image size in pixels)."""
    torch.manual_seed(0)
    student, spec, preprocessing = create_student(
        StudentOptions(student=name, student_weights="none", image_size=image_size),
        CLASSES,
        two_heads=True,
        prompts=CLASSES,
        templates=["{}"],
        device=torch.device("cpu"),
    )  # fmt: skip
    for module in student.train().modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    images = torch.from_numpy(normalise(pixels(16, spec.image_size), preprocessing))
    with torch.no_grad():
        student(images)
        for head, logits in zip((student.ce_head, student.kd_head), student.eval()(images), strict=True):
            head.weight.div_(logits.std())
    head = folded_head(head_arrays(student), Fold("exact", 0.4, 0.5))
    trained = Deployable(student.backbone, head, preprocessing, "uint8-nhwc").eval()
    exported = Deployable(exportable(student.backbone), head, preprocessing, "uint8-nhwc").eval()
    return student, trained, exported, spec.image_size


def pixels(n: int, size: int) -> np.ndarray:
    """n images of 8 x 8 random blocks, uint8 [n, size, size, 3]; another n gives other images."""
    blocks = np.random.default_rng(n).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    side = -(-size // 8)
    return np.ascontiguousarray(blocks.repeat(side, 1).repeat(side, 2)[:, :size, :size])


def difference(content: bytes, module: Deployable, size: int) -> float:
    """Largest difference of a probability to torch, over a batch of 1 and one of 5."""
    session, worst = OnnxSession(content), 0.0
    for n in (1, 5):
        batch = pixels(n, size)
        with torch.inference_mode():
            expected = module(torch.from_numpy(batch)).numpy()
        worst = max(worst, float(abs(session.infer(batch) - expected).max()))
    return worst


def half_share(content: bytes) -> tuple[int, int]:
    """(convolutions and matrix products that take fp16, all of them)."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(content)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.input]}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    taken = [types[node.input[0]] for node in graph.node if node.op_type in PRODUCTS]
    return taken.count(onnx.TensorProto.FLOAT16), len(taken)


def build(content: bytes) -> tuple[float, bytes]:
    """CPU seconds that TensorRT-RTX takes to parse and build, strongly typed, for batches 1 to 16, and the plan."""
    start = time.process_time()
    logger = trt.Logger(trt.ILogger.Severity.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        raise SystemExit(f"TensorRT-RTX does not parse it: {parser.get_error(0)}")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    fixed = tuple(network.get_input(0).shape)[1:]
    profile.set_shape("image", (1, *fixed), (8, *fixed), (16, *fixed))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise SystemExit("TensorRT-RTX does not build it.")
    return time.process_time() - start, bytes(plan)


def row(name: str, image_size: int | None) -> dict[str, str]:
    """One row of the table: column to text."""
    student, trained, exported, size = random_student(name, image_size)
    fp32 = export_onnx(exported, size, {})
    fp16 = convert(fp32, {}, {})
    operators = [node.op_type for node in onnx.load_from_string(fp32).graph.node]
    norms = sum(isinstance(module, torch.nn.LayerNorm) for module in student.modules())
    half, products = half_share(fp16)
    (seconds, _), (seconds_half, plan) = build(fp32), build(fp16)
    fused, attentions = len(re.findall(rb"function=\{ name=_gemm_mha", plan)), operators.count("Softmax") - 1
    return {
        "student": name,
        "pixels": str(size),
        "parameters (M)": f"{parameters_m(student.backbone):.1f}",
        "torch = ONNX fp32": f"{difference(fp32, trained, size):.1e}",
        "fp16": f"{difference(fp16, trained, size):.1e}",
        "shape nodes": str(len(shape_arithmetic(fp32)) + len(shape_arithmetic(fp16))),
        "LayerNorms as one op": f"{operators.count('LayerNormalization')} of {norms}" if norms else "none",
        "attentions as one kernel": f"{fused} of {attentions}" if attentions else "none",
        "fp16 conv/matmul": f"{half} of {products}",
        "TensorRT-RTX build fp32 / fp16 (CPU s)": f"{seconds:.1f} / {seconds_half:.1f}",
        "ONNX fp32 / fp16 (MB)": f"{len(fp32) / 1e6:.1f} / {len(fp16) / 1e6:.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=STUDENTS, help="timm models, or open_clip:ARCHITECTURE")
    parser.add_argument("--image-size", type=int, help="pixels; each student's own by default")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    lines: list[str] = []
    for name in options.students:
        cells = row(name, options.image_size)
        if not lines:
            lines = [f"| {' | '.join(cells)} |", f"|{' --- |' * len(cells)}"]
            print("\n".join(lines))
        lines.append(f"| {' | '.join(cells.values())} |")
        print(lines[-1], flush=True)
    note = f"{cpu_model()}, {torch.get_num_threads()} torch threads; " + ", ".join(
        f"{k} {v}" for k, v in versions().items()
    )
    print(f"\n{note}")
    if options.out is not None:
        options.out.write_text("\n".join([*lines, "", note, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
