"""What TensorRT-RTX's compiler keeps of fp16 in whole students: python benchmarks/engine_precision.py STUDENT ...

Needs no GPU. Random weights: types do not depend on them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import timm
from rich.table import Table

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.engine import EngineOptions
from dhox.console import console
from dhox.distill.students.student import with_heads
from dhox.export.engines.compile_engine import compile_onnx
from dhox.export.engines.precision_proof import compiled_precision, layers_of_log, tally
from dhox.export.folding.fold import inference_linear
from dhox.export.graphs.backbone import exportable
from dhox.export.graphs.graph import Deployable, folded_head, head_arrays
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.half_precision.convert import convert
from dhox.runtimes.tensorrt_api import import_tensorrt, message_logger

SIZE = 224


def main(students: list[str]) -> None:
    timm.layers.set_fused_attn(False)
    trt = import_tensorrt("tensorrt_rtx")
    table = Table("student", "precision", "graph", "engine", "hidden", "MB", "seconds")
    for name in students:
        student = with_heads(timm.create_model(name, num_classes=0), SIZE, 10, two_heads=True, kd_kind="linear").eval()
        head = folded_head(head_arrays(student), inference_linear(0.4, 0.5))
        preprocessing = Preprocessing(SIZE, SIZE, "bicubic", (0.5,) * 3, (0.25,) * 3)
        fp32 = export_onnx(Deployable(exportable(student.backbone), head, preprocessing, "uint8-nhwc").eval(), SIZE, {})
        for precision, content in (("fp32", fp32), ("fp16", convert(fp32, {}, {}))):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                path.write_bytes(content)
                logger, start = message_logger(trt), time.perf_counter()
                made = compile_onnx(path, precision, trt, None, EngineOptions(), logger)
                seconds = time.perf_counter() - start
            engine = compiled_precision(layers_of_log(logger.layers), made.products, precision, "log")
            told = (tally(engine), str(len(engine.hidden))) if engine else ("does not tell", "")
            table.add_row(name, precision, tally(made.parsed), *told, f"{len(made.plan) / 1e6:.1f}", f"{seconds:.1f}")
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="*", default=["resnet18", "mobilenetv4_conv_small", "vit_tiny_patch16_224"])
    main(parser.parse_args().students)
