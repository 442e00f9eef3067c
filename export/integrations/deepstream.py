"""An export for DeepStream's Gst-nvinfer: its configuration and its labels."""

from __future__ import annotations

from dhox.artefacts.manifest import Artefact
from dhox.errors import DhoxError
from dhox.models.export_directory import Export


def deepstream_files(export: Export, entry: Artefact) -> dict[str, bytes]:
    """config_infer.txt and labels.txt for nvinfer, version 9 and earlier ones as far as they know the keys.

    Raises DhoxError for a graph that nvinfer cannot feed.
    """
    if entry.input != "float-nchw-255":
        raise DhoxError(
            f"DeepStream's nvinfer feeds float32 planes scaled by one factor, and this export takes {entry.input}.",
            "Export the run again: dhox export RUN --input float-nchw-255 --out ANOTHER --emit deepstream",
        )
    if export.manifest.embedding is not None:
        raise DhoxError(
            "DeepStream's nvinfer reads every output of a classifier as classes, and this export has an embedding too.",
            "Export the run again without --emit-embedding: dhox export RUN --input float-nchw-255 --out ANOTHER",
        )
    contract, reject = export.manifest.preprocessing, export.manifest.reject
    threshold = 0.0 if reject is None else reject.threshold
    smaller = "" if contract.jpeg_side is None else (
        f"\n# JPEG files came to it decoded at 1/2, 1/4 or 1/8 where {contract.jpeg_side} px of the shorter side were "
        "left\n# (--decode scaled); DeepStream decodes in full."
    )  # fmt: skip
    older = {"fp32": "network-mode=0", "fp16": "network-mode=2"}.get(entry.precision, "another precision")
    text = f"""\
# Gst-nvinfer classifier of {entry.file} ({entry.precision}); written by dhox export --emit deepstream.
#
# The network was evaluated with: shorter side to {contract.resize} px ({contract.interpolation}, antialiased), centre crop {contract.crop} px.{smaller}
# nvinfer does something else: it stretches the whole frame, bilinear and without antialiasing. On 1,000 photographs
# (EfficientNet-Lite0, 224 px) that cost 3.7 points of top-1, and padding instead (maintain-aspect-ratio=1)
# 7.9. What cost nothing there: cutting the centre square before nvinfer ({100 * contract.crop / contract.resize:.0f} % of the shorter side: nvvideoconvert
# src-crop, or nvdspreprocess), so that the stretch changes no shape. Measure it on your own images before you ship:
# compare the labels of the pipeline with those of `dhox predict ../ IMAGE ...`, which are the export's own.
# A camera file (--camera) does not serve here: nvinfer scales and converts every frame before the network. Only
# nvdspreprocess with a library of your own (input-tensor-from-meta=1) can hand a network raw frames.
#
# Precision is written into the ONNX file: strongly-typed obeys it (network-mode stays 0 then: its flags are refused
# there). A DeepStream that prints "Unknown or legacy key" for strongly-typed needs {older} instead.
# The engine is built at the first start and kept under model-engine-file: delete it after every new export.
# As a secondary classifier on detected objects: process-mode=2 and operate-on-gie-id.
[property]
gpu-id=0
gie-unique-id=1
process-mode=1
network-type=1
onnx-file=../{entry.file}
model-engine-file=../{entry.file}_b1_gpu0_fp32.engine
labelfile-path=labels.txt
batch-size=1
network-mode=0
strongly-typed=1
infer-dims=3;{contract.crop};{contract.crop}
network-input-order=0
model-color-format=0
net-scale-factor=1.0
offsets=0;0;0
maintain-aspect-ratio=0
scaling-filter=1
output-blob-names=probs
classifier-threshold={threshold!r}
"""  # noqa: E501
    labels = ";".join(" ".join(name.split()).replace(";", ",") for name in export.manifest.names) + "\n"
    return {"config_infer.txt": text.encode(), "labels.txt": labels.encode()}
