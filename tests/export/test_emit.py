"""What other programs take from an export, each held against its consumer: Python, nvinfer's keys, Triton's schema."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from made_export import FILES, make_manifest, write_model
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from plain_files import write_json
from refusals import refuses

import dhox
from dhox.artefacts.common import Accuracy, Preprocessing
from dhox.artefacts.files import sha256
from dhox.artefacts.manifest import Precision, Reject
from dhox.cli.main import app
from dhox.export.integrations.emit import Program, emit
from dhox.export.integrations.example import example_text
from dhox.models.export_directory import open_export
from dhox.models.onnx_file import check_onnx
from dhox.runtimes.tensors import INPUT_KINDS

CLASSES = ["bag", "a dress; or a gown", "sandal", "two\nlines", "größer"]
CROP = 16

# [property] keys of Gst-nvinfer, from NVIDIA's gstnvinfer_property_parser.h (github.com/NVIDIA/DeepStream, release 9).
NVINFER_KEYS = frozenset(
    """
    gie-unique-id process-mode interval labelfile-path gpu-id secondary-reinfer-interval output-tensor-meta
    disable-output-host-copy auto-inc-mem max-gpu-mem-per enable-dla use-dla-core batch-size tensor-meta-pool-size
    network-mode model-engine-file int8-calib-file workspace-size output-blob-names is-classifier network-type
    force-implicit-batch-dim infer-dims output-io-formats layer-device-precision model-color-format net-scale-factor
    offsets mean-file maintain-aspect-ratio symmetric-padding scaling-filter scaling-compute-hw network-input-order
    input-tensor-from-meta custom-lib-path parse-classifier-func-name custom-network-config onnx-file
    num-detected-classes strongly-typed classifier-type classifier-threshold classifier-async-mode
    input-object-min-width input-object-min-height input-object-max-width input-object-max-height operate-on-gie-id
    operate-on-class-ids filter-out-class-ids
    """.split()  # noqa: SIM905
)

# example.py in a process that has neither dhox nor the training libraries.
ALONE = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"dhox", "torch", "onnx", "timm", "torchvision"}:
            raise ImportError("not here: " + name)
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def made_export(
    folder: Path, kind: str, precision: Precision = "fp32", decode: str = "full", **more: object
) -> Path:  # fmt: skip
    """An export directory whose graph is one random linear layer on the pixels: every pixel counts."""
    folder.mkdir(parents=True)
    weight = np.random.default_rng(0).normal(size=(3 * CROP * CROP, len(CLASSES))).astype(np.float32)
    weight *= {"float-nchw": 0.05}.get(kind, 0.001)
    uint8 = kind == "uint8-nhwc"
    shape = ["batch", CROP, CROP, 3] if uint8 else ["batch", 3, CROP, CROP]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["float"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probs"]),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8 if uint8 else TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["batch", len(CLASSES)])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    preprocessing = Preprocessing(20, CROP, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), decode=decode)  # type: ignore[arg-type]
    write_model(folder, model, CLASSES, preprocessing)
    if precision != "fp32":
        shutil.copy(folder / "model.onnx", folder / FILES[precision])
    made = make_manifest(folder, CLASSES, preprocessing, kind, precision, **more)
    (folder / "example.py").write_text(example_text(made.artefacts[0], preprocessing, None))
    return folder


def rejecting(threshold: float) -> Reject:
    row = Accuracy(n=2, correct=1, accuracy=0.5, interval=(0.1, 0.9))
    return Reject(
        asked=0.9, threshold=threshold, coverage=0.9, coverage_interval=(0.8, 1.0), answered=row, all=row, n=2,
        images="cross-fitted",
    )  # fmt: skip


@pytest.mark.parametrize("program", ["deepstream", "triton"])
def test_every_file_and_command_that_an_emitted_text_names_is_there(tmp_path: Path, program: Program) -> None:
    folder = emit(made_export(tmp_path / "export", "float-nchw-255"), program)
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for path in folder.rglob("*.*"):
        if path.suffix not in {".txt", ".pbtxt"}:
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"python \S+|docs/\S+|benchmarks/\S+", text)
        assert set(re.findall(r"dhox ([a-z]+)", text)) <= commands
        for name in re.findall(r"[\w./-]+\.(?:py|md|onnx|txt|toml)\b", text):
            named = [folder / name, path.parent / name, path.parent / "1" / name, folder.parent / name]
            assert any(place.exists() for place in named), name


def odd_images(folder: Path) -> list[Path]:
    """One image of every kind that decoding has a rule for, in sizes whose crop does not divide evenly."""
    noise = np.random.default_rng(1).integers(0, 256, (37, 50, 4), dtype=np.uint8)
    rgb, rgba = Image.fromarray(noise[..., :3]), Image.fromarray(noise)
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb.save(folder / "turned.jpg", exif=turned)
    rgb.transpose(Image.Transpose.ROTATE_90).save(folder / "portrait.png")
    rgba.save(folder / "alpha.png")
    rgb.quantize(16).save(folder / "palette.png", transparency=3)
    rgb.convert("L").save(folder / "grey.png")
    rgba.convert("LA").save(folder / "grey_alpha.png")
    rgb.save(folder / "keyed.png", transparency=(1, 2, 3))
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "16bit.png")
    rgb.resize((20, 31)).save(folder / "fits.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    return sorted(folder.iterdir())


def run_alone(example: Path, images: list[Path]) -> list[list[str]]:
    """(class, probability) for each image, as example.py prints them."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, example, *images], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace("two\nlines", "two lines").splitlines()
    return [line.removeprefix(f"{image} ").rsplit(" ", 1) for line, image in zip(lines, images, strict=True)]


@pytest.mark.parametrize("kind", INPUT_KINDS)
def test_the_example_answers_as_dhox_does_on_every_kind_of_image(tmp_path: Path, kind: str) -> None:
    export = made_export(tmp_path / "export", kind)
    (tmp_path / "images").mkdir()
    images = odd_images(tmp_path / "images")
    probs = dhox.load(export, "cpu")(images)
    assert len({round(float(row.max()), 6) for row in probs}) == len(images)  # the answers tell the images apart
    for (name, probability), row in zip(run_alone(export / "example.py", images), probs, strict=True):
        assert name == " ".join(CLASSES[row.argmax()].split())
        assert float(probability) == pytest.approx(float(row.max()), abs=2e-6)


def test_the_example_decodes_large_jpegs_smaller_where_the_contract_says_so(tmp_path: Path) -> None:
    scaled = made_export(tmp_path / "scaled", "uint8-nhwc", decode="scaled")
    full = made_export(tmp_path / "full", "uint8-nhwc")
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (160, 201, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    noise.save("turned.jpg", exif=turned)
    noise.convert("CMYK").save("cmyk.jpg")
    noise.crop((0, 0, 201, 79)).save("small.jpg")
    noise.save("noise.png")
    images = [Path(name) for name in ("turned.jpg", "cmyk.jpg", "small.jpg", "noise.png")]
    probs = dhox.load(scaled, "cpu")(images)
    answers = [float(probability) for _, probability in run_alone(scaled / "example.py", images)]
    assert answers == pytest.approx(probs.max(-1), abs=2e-6)
    differs = ~np.isclose(dhox.load(full, "cpu")(images), probs, atol=1e-6).all(-1)
    assert differs.tolist() == [True, True, False, False]
    assert len((scaled / "example.py").read_text().splitlines()) <= 44


@pytest.mark.parametrize("program", ["deepstream", "triton"])
def test_an_emitted_text_says_what_becomes_of_large_jpegs(tmp_path: Path, program: Program) -> None:
    texts = {}
    for decode in ("full", "scaled"):
        folder = emit(made_export(tmp_path / decode, "float-nchw-255", decode=decode), program)
        texts[decode] = next(path for path in folder.rglob("config*")).read_text()
    assert "scaled" in texts["scaled"]
    assert "scaled" not in texts["full"]


def test_the_example_of_a_real_export_answers_as_predict_does(line: Path, tmp_path: Path) -> None:
    shutil.copytree(line / "runs/tiny/export", tmp_path / "export")
    opened = open_export(tmp_path / "export")
    entry, preprocessing = opened.entry("fp32"), opened.manifest.preprocessing
    text = example_text(entry, preprocessing, None)
    assert len(text.splitlines()) <= 40
    (tmp_path / "export/example.py").write_text(text)
    images = sorted((line / "data/test/sandal").iterdir())[:4]
    probs = dhox.load(tmp_path / "export", "cpu")(images)
    assert [float(p) for _, p in run_alone(tmp_path / "export/example.py", images)] == pytest.approx(
        probs.max(-1), abs=2e-6
    )
    (tmp_path / "export/example.py").write_text(example_text(entry, preprocessing, rejecting(1.1)))
    assert {name for name, _ in run_alone(tmp_path / "export/example.py", images)} == {"unknown"}


def nvinfer_config(folder: Path) -> dict[str, str]:
    """[property] as GKeyFile reads it; fails on a key twice."""
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(folder / "config_infer.txt", encoding="utf-8")
    assert parser.sections() == ["property"]
    return dict(parser["property"])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_deepstream_gets_keys_that_nvinfer_knows_and_the_shape_of_the_file(
    tmp_path: Path, precision: Precision
) -> None:
    export = made_export(tmp_path / "export", "float-nchw-255", precision)
    folder = emit(export, "deepstream")
    assert folder == export / "deepstream"
    config = nvinfer_config(folder)
    assert set(config) <= NVINFER_KEYS
    model = (folder / config["onnx-file"]).resolve()
    assert model == (export / FILES[precision]).resolve()
    shape = onnx.load(model).graph.input[0].type.tensor_type.shape.dim[1:]
    assert [int(side) for side in config["infer-dims"].split(";")] == [side.dim_value for side in shape]
    assert [config["output-blob-names"]] == [tensor.name for tensor in check_onnx(model).outputs]
    # pixels 0 to 255, RGB planes, untouched; the whole frame stretched; types as the file has them
    assert (float(config["net-scale-factor"]), config["offsets"]) == (1.0, "0;0;0")
    assert (config["model-color-format"], config["network-input-order"]) == ("0", "0")
    assert (config["maintain-aspect-ratio"], config["network-type"]) == ("0", "1")
    assert (config["strongly-typed"], config["network-mode"]) == ("1", "0")
    assert float(config["classifier-threshold"]) == 0.0
    labels = (folder / config["labelfile-path"]).read_text(encoding="utf-8")
    assert labels == "bag;a dress, or a gown;sandal;two lines;größer\n"


def test_the_reject_threshold_reaches_nvinfer(tmp_path: Path) -> None:
    export = made_export(tmp_path / "export", "float-nchw-255", reject=rejecting(0.4375))
    assert float(nvinfer_config(emit(export, "deepstream"))["classifier-threshold"]) == 0.4375


@pytest.mark.parametrize("kind", ["uint8-nhwc", "float-nchw"])
def test_deepstream_needs_planes_from_0_to_255(tmp_path: Path, kind: str) -> None:
    export = made_export(tmp_path / "export", kind)
    with refuses(kind, at="export.integrations.deepstream", fix=("RUN", "--input float-nchw-255")):
        emit(export, "deepstream")
    assert {path.name for path in export.iterdir()} == {"manifest.json", "model.onnx", "example.py", "golden.npz"}


def triton_schema() -> ModuleType:
    """Triton's own ModelConfig, without the gRPC client around it."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip("tritonclient is not installed: config.pbtxt is not held against Triton's schema")
    path = Path(package.submodule_search_locations[0]) / "grpc/model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "data_type", "dims"),
    [
        ("uint8-nhwc", "TYPE_UINT8", [CROP, CROP, 3]),
        ("float-nchw", "TYPE_FP32", [3, CROP, CROP]),
        ("float-nchw-255", "TYPE_FP32", [3, CROP, CROP]),
    ],
)
def test_triton_parses_the_configuration(tmp_path: Path, kind: str, data_type: str, dims: list[int]) -> None:
    from google.protobuf import text_format

    schema = triton_schema()
    export = made_export(tmp_path / "export", kind)
    model = emit(export, "triton") / "my_run_2"
    config = text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())
    assert (config.name, config.backend) == (model.name, "onnxruntime")
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    (image,), (probs,) = config.input, config.output
    assert (image.name, schema.DataType.Name(image.data_type), list(image.dims)) == ("image", data_type, dims)
    assert (probs.name, schema.DataType.Name(probs.data_type)) == ("probs", "TYPE_FP32")
    assert list(probs.dims) == [len(CLASSES)]
    assert config.parameters["dhox_sha256"].string_value == sha256(model / "1/model.onnx")
    labels = (model / probs.label_filename).read_text(encoding="utf-8").splitlines()
    assert labels == [" ".join(name.split()) for name in CLASSES]


def test_triton_gets_a_repository_with_the_very_file(tmp_path: Path) -> None:
    export = made_export(tmp_path / "export", "uint8-nhwc")
    folder = emit(export, "triton")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"emit.json", "my_run_2/config.pbtxt", "my_run_2/labels.txt", "my_run_2/1/model.onnx"}
    assert (folder / "my_run_2/1/model.onnx").read_bytes() == (export / "model.onnx").read_bytes()


def test_emitting_again_replaces_only_what_was_emitted(tmp_path: Path) -> None:
    export = made_export(tmp_path / "export", "uint8-nhwc")
    config = emit(export, "triton") / "my_run_2/config.pbtxt"
    first = config.read_bytes()
    before = {path.name: sha256(path) for path in export.iterdir() if path.is_file()}
    assert emit(export, "triton") == export / "triton"
    assert config.read_bytes() == first
    assert {path.name: sha256(path) for path in export.iterdir() if path.is_file()} == before
    config.write_bytes(first + b"instance_group [ { count: 2 } ]\n")
    with refuses("my_run_2/config.pbtxt", at="export.integrations.emit._check_unedited"):
        emit(export, "triton")
    assert config.read_bytes() != first
    config.write_bytes(first)
    (export / "triton/other_model").mkdir()
    (export / "triton/other_model/config.pbtxt").write_text("mine")
    with refuses("other_model/config.pbtxt", at="export.integrations.emit._check_unedited"):
        emit(export, "triton")
    shutil.rmtree(export / "triton")
    (export / "triton").mkdir()
    (export / "triton/mine.txt").write_text("mine")
    with refuses("triton", at="artefacts.files.check_output", fix="--out"):
        emit(export, "triton")
    assert (export / "triton/mine.txt").read_text() == "mine"


def test_a_damaged_export_emits_nothing(tmp_path: Path) -> None:
    export = made_export(tmp_path / "export", "uint8-nhwc")
    (export / "model.onnx").write_bytes(b"another model")
    with refuses("model.onnx", "manifest.json", "SHA-256", at="artefacts.files.check_hash"):
        emit(export, "triton")
    assert not (export / "triton").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"preprocessing": {"resize": "20\ncustom-lib-path=/tmp/evil.so"}},
        {"preprocessing": {"interpolation": "bicubic\ncustom-lib-path=/tmp/evil.so"}},
        {"reject": {"threshold": "0.5\ncustom-lib-path=/tmp/evil.so"}},
        {"precision": "fp32\n[property]\ncustom-lib-path=/tmp/evil.so"},
        {"file": "model.onnx\ncustom-lib-path=/tmp/evil.so"},
    ],
)
def test_a_manifest_from_elsewhere_cannot_write_keys_into_a_configuration(tmp_path: Path, change: dict) -> None:
    export = made_export(tmp_path / "export", "float-nchw-255")
    content = json.loads((export / "manifest.json").read_text())
    content["preprocessing"] |= change.get("preprocessing", {})
    content["artefacts"][0] |= {key: change[key] for key in ("precision", "file") if key in change}
    content["default"] = content["artefacts"][0]["precision"]
    if "file" in change:
        shutil.copy(export / "model.onnx", export / "renamed")
    write_json(export / "manifest.json", content | {key: change[key] for key in ("reject",) if key in change})
    with refuses("manifest.json", "/tmp/evil.so", at="artefacts.record.decode"):
        emit(export, "deepstream")
    assert not (export / "deepstream").exists()
