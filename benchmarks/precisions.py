"""What fp16 and int8 cost a trained network: top-1 with its interval, agreement, McNemar's test, and file sizes.

    python benchmarks/precisions.py DATA --student tf_efficientnet_lite0 --weights FILE

DATA: an image folder with classes in the network's own order, or a flat folder with one image per class. Some images
measure ranges and hold the gate (`--calibrate`); accuracy is read on all others. `--weights`: a state dict of the timm
model, or one whose tensors come in the same order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
from packed_size import network

from dhox.artefacts.common import Preprocessing
from dhox.data.dataset import read_image
from dhox.data.images import model_input
from dhox.data.items import Item
from dhox.evidence.statistics import mcnemar_p, wilson_interval
from dhox.export.graphs.backbone import exportable
from dhox.export.graphs.graph import Deployable, LinearHead
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.half_precision.calibrated import to_half
from dhox.export.quantization.int8 import Int8Choices, Judges, to_int8
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import predict
from dhox.runtimes.tensors import Tensors

BATCH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--student", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--calibrate", type=int, default=200)
    parser.add_argument("--max-accuracy-drop", type=float, default=1.0)
    parser.add_argument("--method", choices=["minmax", "percentile"], default="minmax")
    parser.add_argument("--quantize-head", action="store_true")
    options = parser.parse_args()

    timm.layers.set_fused_attn(False)
    paths = sorted(path for path in options.data.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    folders = sorted({path.parent.name for path in paths})
    labels = np.array([folders.index(p.parent.name) if len(folders) > 1 else i for i, p in enumerate(paths)])
    model = network(options.student, options.weights)
    config = timm.data.resolve_data_config({}, model=model)
    size = config["input_size"][-1]
    resize = round(size / config["crop_pct"])
    preprocessing = Preprocessing(resize, size, config["interpolation"], tuple(config["mean"]), tuple(config["std"]))
    pixels = np.stack([model_input(read_image(Item(str(path), path.name)), preprocessing) for path in paths])
    order = np.random.default_rng(0).permutation(len(paths))
    few, rest = order[: options.calibrate], np.sort(order[options.calibrate :])

    classifier = model.get_classifier()
    head = LinearHead({f"linear.{key}": tensor.numpy() for key, tensor in classifier.state_dict().items()})
    model.reset_classifier(0)
    fp32 = export_onnx(Deployable(exportable(model), head, preprocessing, "uint8-nhwc").eval(), size, {})
    tensors = Tensors(preprocessing)
    half = to_half(fp32, {}, list(tensors.batches(pixels[few], BATCH)))
    choices = Int8Choices(
        options.max_accuracy_drop, options.quantize_head, {node.node: node.why for node in half.account.kept},
        options.method,
    )  # fmt: skip
    int8 = to_int8(fp32, {}, tensors, pixels[few], Judges(pixels[few], labels[few]), choices)

    told = int8.account
    files = {"fp32": fp32, "fp16": half.content, "int8": int8.content}
    predictions = {
        name: predict(OnnxSession(content), tensors, pixels[rest], name).argmax(-1) for name, content in files.items()
    }
    print(f"{options.student} at {size} px, {len(rest)} images; {len(few)} others measured ranges and held the gate")
    first = predictions["fp32"]
    for name, answer in predictions.items():
        right = answer == labels[rest]
        low, high = wilson_interval(int(right.sum()), len(right))
        text = f"{name}: {100 * right.mean():.2f} % ({100 * low:.1f}-{100 * high:.1f}), {len(files[name]) / 1e6:.2f} MB"
        if name != "fp32":
            before = first == labels[rest]
            p = mcnemar_p(int((right & ~before).sum()), int((before & ~right).sum()))
            text += f", agreement with fp32 {100 * (answer == first).mean():.2f} %, McNemar p = {p:.3f}"
        print(text)
    print(
        f"int8: {len(told.quantised)} layers, {100 * told.share:.1f} % of the multiply-adds, ranges by {told.method};"
        f" drop on the gate's images {told.drop:+.2f} points; returned to fp16: "
        + (", ".join(f"{layer.node} ({layer.damage:.3g} nats)" for layer in told.returned) or "none")
    )
    print(told.advice or "")


if __name__ == "__main__":
    main()
