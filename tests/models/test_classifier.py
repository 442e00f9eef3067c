from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from damage import answer_no_numbers
from PIL import Image
from plain_files import write_json
from refusals import refuses

import dhox
from dhox.cli.main import main
from dhox.data.images import UnreadableImageError
from dhox.errors import UsageError
from dhox.models.export_directory import open_export

ROW = {"n": 80, "correct": 40, "accuracy": 0.5, "interval": [0.4, 0.6]}
REJECT = {
    "asked": 0.9, "coverage": 0.9, "coverage_interval": [0.8, 0.95], "answered": ROW, "all": ROW, "n": 80,
    "images": "cross-fitted",
}  # fmt: skip


def test_paths_pil_images_and_arrays_give_the_same(line: Path) -> None:
    model = dhox.load(str(line / "runs/tiny/export"))
    paths = sorted((line / "data/test/bag").iterdir())[:3]
    probs = model(paths)
    assert probs.shape == (3, 4)
    assert probs.dtype == np.float32
    opened = [Image.open(path) for path in paths]
    assert np.array_equal(model(opened), probs)
    assert np.array_equal(model([np.asarray(image.convert("RGB")) for image in opened]), probs)
    assert np.array_equal(model(paths[0]), model([str(paths[0])]))
    assert model([]).shape == (0, 4)
    assert model.classes == ["bag", "dress", "sandal", "trousers"]


def test_the_cpu_takes_fp32_unless_asked(line: Path) -> None:
    assert dhox.load(line / "runs/tiny/export", device="cpu").entry.precision == "fp32"
    assert dhox.load(line / "runs/tiny/export", device="cpu", precision="fp16").entry.precision == "fp16"


def test_predictions_equal_the_golden_probs(line: Path) -> None:
    golden = open_export(line / "runs/tiny/export").golden()
    probs = dhox.load(line / "runs/tiny/export")(golden.decoded)
    assert len(probs) == 32
    assert abs(probs - golden.probs).max() < 1e-4


@pytest.mark.parametrize(
    ("call", "at", "facts", "fix"),
    [
        (lambda e: dhox.load(e, precision="int8"), "models.export_directory.entry", ["int8"], "fp32, fp16"),
        (lambda e: dhox.load(e, device="tpu"), "models.classifier.load", ["'tpu'"], ("cpu", "cuda", "tensorrt")),
        (lambda e: dhox.load(e)(np.zeros((4, 4))), "runtimes.predict", ["uint8", "[H, W, 3]", "float64 [4, 4]"], ()),
    ],
)
def test_mistakes_are_named(line: Path, call: object, at: str, facts: list, fix: str) -> None:
    with refuses(*facts, at=at, fix=fix):
        call(line / "runs/tiny/export")  # type: ignore[operator]


def test_an_export_that_is_not_there_is_a_usage_error() -> None:
    with refuses("none", "exist", at="models.export_directory", fix="dhox export RUN", kind=UsageError):
        dhox.load("none")


def test_a_path_to_nothing_is_an_image_that_cannot_be_read(line: Path) -> None:
    with refuses("none.png", at="runtimes.predict.opened", kind=UnreadableImageError):
        dhox.load(line / "runs/tiny/export")("none.png")


def test_table_and_json(line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(path) for path in sorted((line / "data/test/sandal").iterdir())[:2]]
    main_quietly(["predict", str(line / "runs/tiny/export"), *images, "--top", "2", "--json"])
    answers = json.loads(capsys.readouterr().out)
    assert [answer["path"] for answer in answers] == images
    assert [len(answer["top"]) for answer in answers] == [2, 2]
    assert [(answer["predicted"], answer["unknown"]) for answer in answers] == [
        (answer["top"][0]["class"], False) for answer in answers
    ]
    assert answers[0]["top"][0]["probability"] >= answers[0]["top"][1]["probability"]
    main_quietly(["predict", str(line / "runs/tiny/export"), *images])
    assert f"{100 * answers[0]['top'][0]['probability']:.1f} %" in capsys.readouterr().out


def test_below_the_threshold_the_answer_is_unknown(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = own_line / "runs/tiny/export"
    images = [str(path) for path in sorted((own_line / "data/test").rglob("*.png"))[:12]]
    assert dhox.load(export).reject_threshold is None
    tops = dhox.load(export)(images).max(-1)
    threshold = float(np.sort(tops)[5])
    manifest = json.loads((export / "manifest.json").read_text())
    write_json(export / "manifest.json", manifest | {"reject": REJECT | {"threshold": threshold}})
    assert dhox.load(export).reject_threshold == threshold
    main_quietly(["predict", str(export), *images, "--json"])
    answers = json.loads(capsys.readouterr().out)
    assert [answer["unknown"] for answer in answers] == (tops < threshold).tolist()
    assert sum(answer["unknown"] for answer in answers) == 5
    for answer in answers:
        assert answer["predicted"] == (None if answer["unknown"] else answer["top"][0]["class"])
        assert len(answer["top"]) == 3
    main_quietly(["predict", str(export), *images])
    assert capsys.readouterr().out.count("unknown") == 5


def main_quietly(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0


def test_answers_that_are_no_numbers_are_an_error(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    answer_no_numbers(export)
    with refuses("model.onnx", at="models.classifier._finite", fix="dhox verify"):
        dhox.load(export, "cpu", "fp32")(np.zeros((28, 28, 3), np.uint8))
