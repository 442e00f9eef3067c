"""`--decode scaled` from the training to everything that runs its export: each sees a JPEG at the same scale."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import CLASSES, write_data
from lightning_fabric import Fabric
from PIL import Image
from plain_files import read_json, write_json
from quick_distill import quick
from refusals import refuses
from serving import TOKEN
from starlette.testclient import TestClient

import dhox
from dhox.artefacts.predictions import read_predictions
from dhox.artefacts.record import read_record
from dhox.artefacts.run import read_run
from dhox.artefacts.shards import Shards
from dhox.cli.main import main
from dhox.data.dataset import Item, read_dataset, read_image
from dhox.data.images import decode
from dhox.distill.images.packed import packed_rows
from dhox.distill.images.student_inputs import Boxes, DecodedInputs, to_decoded_box
from dhox.distill.images.views import render
from dhox.distill.results.evaluate import pixel_loader
from dhox.models.export_directory import open_export
from dhox.models.verify import verify
from dhox.runtimes.predict import pixels_of
from dhox.serve.app import make_app
from dhox.serve.metrics import Metrics
from dhox.serve.models import Asked
from dhox.serve.work import Work

SIDE = 56  # twice the student's input


def write_jpegs(root: Path) -> None:
    """DATA as large JPEGs with grain: those of one class too small to be scaled, the others decoded at 1/2 or 1/4."""
    sizes = dict(zip(CLASSES, [(111, 140), (112, 140), (150, 223), (300, 224)], strict=True))
    write_data(root)
    generator = np.random.default_rng(0)
    for path in sorted(root.rglob("*.png")):
        image = Image.open(path).convert("RGB").resize(sizes[path.parent.name])
        grain = generator.normal(0, 40, (image.height, image.width, 3))
        Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8)).save(path.with_suffix(".jpg"))
        path.unlink()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, runs/full and runs/scaled of one cache, and runs/scaled/export."""
    root = tmp_path_factory.mktemp("scaled")
    write_jpegs(root / "data")
    for kind in ("full", "scaled"):
        quick(root / "data", str(root / "runs" / kind), decode=kind, shots=8)
    dhox.export(root / "runs/scaled", root / "runs/scaled/export")
    return root


@pytest.fixture
def own_place(place: Path, tmp_path: Path) -> Path:
    """A copy of runs/scaled that a test may change."""
    shutil.copytree(place / "runs/scaled", tmp_path / "scaled")
    return tmp_path / "scaled"


def test_run_manifest_and_graph_say_it(place: Path) -> None:
    run, export = read_run(place / "runs/scaled"), open_export(place / "runs/scaled/export")
    assert run.settings is not None
    assert (run.settings["decode"], run.preprocessing.decode, run.preprocessing.jpeg_side) == ("scaled", "scaled", SIDE)
    assert export.manifest.preprocessing == run.preprocessing
    metadata = {entry.key: entry.value for entry in onnx.load(export.path / "model.onnx").metadata_props}
    assert json.loads(metadata["dhox.preprocessing"])["decode"] == "scaled"
    assert "1/2, 1/4 or 1/8" in (export.path / "MODEL_CARD.md").read_text()
    full = read_json(place / "runs/full/run.json")
    assert (full["settings"]["decode"], full["preprocessing"].get("decode")) == ("full", None)


def test_the_student_trains_on_the_scaled_pictures_and_the_teacher_on_the_full_ones(place: Path) -> None:
    cache = place / "runs/cache"
    folders = {path.name: read_record(path / "shards.json", Shards) for path in cache.iterdir() if path.is_dir()}
    assert sorted(name for name in folders if name.startswith("packed")) == ["packed-40", f"packed-40-scaled-{SIDE}"]
    assert "jpeg_side" not in folders["packed-40"].recipe
    assert folders[f"packed-40-scaled-{SIDE}"].recipe["jpeg_side"] == SIDE
    assert sum(name.startswith("teacher") for name in folders) == 2  # views and whole images: both runs read the same


def test_packed_images_are_made_of_the_scaled_pictures(place: Path, tmp_path: Path) -> None:
    items = [read_dataset(place / "data")["test"][i] for i in (0, 30, -1)]
    fabric, keys = Fabric(accelerator="cpu", devices=1), np.array([b"a" * 16, b"b" * 16, b"c" * 16], "S16")
    rows = packed_rows(fabric, tmp_path, items, keys, 40, SIDE)
    for i, item in enumerate(items):
        image = decode(item.path, jpeg_side=SIDE).resize((40, 40), Image.Resampling.BICUBIC)
        assert np.array_equal(rows.take(np.array([i]), np.empty((1, 40, 40, 3), np.uint8))[0], np.asarray(image))


def test_training_sees_whole_images_as_every_runner_does(place: Path) -> None:
    items, contract = read_dataset(place / "data")["test"], read_run(place / "runs/scaled").preprocessing
    fabric = Fabric(accelerator="cpu", devices=1)
    trained = torch.cat([*pixel_loader(items, contract, 0, fabric)]).numpy()
    assert np.array_equal(trained, pixels_of([item.path for item in items], contract))
    full = pixels_of(items, read_run(place / "runs/full").preprocessing)
    same = [np.array_equal(one, other) for one, other in zip(trained, full, strict=True)]
    assert same == [item.label == CLASSES[0] for item in items]


def test_every_way_to_an_answer_is_the_same(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = place / "runs/scaled/export"
    paths = [item.path for item in read_dataset(place / "data")["test"]][::5]
    model = dhox.load(export, "cpu")
    probs = model(paths)
    assert np.array_equal(model([path.read_bytes() for path in paths]), probs)
    streamed = [one.probs for one in model.stream(*map(str, paths))]
    assert np.allclose(streamed, probs, atol=1e-6)
    assert not np.allclose(model([Image.open(path) for path in paths]), probs, atol=1e-6)  # decoded by the caller

    expected = [(model.classes[row.argmax()], pytest.approx(float(row.max()), abs=2e-6)) for row in probs]
    with suppress(SystemExit):
        main(["predict", str(export), *map(str, paths), "--json", "--device", "cpu"])
    rows = json.loads(capsys.readouterr().out)
    assert [(row["predicted"], row["top"][0]["probability"]) for row in rows] == expected
    done = subprocess.run(
        [sys.executable, export / "example.py", *paths], capture_output=True, text=True, check=True
    ).stdout
    assert [(line.split()[-2], float(line.split()[-1])) for line in done.splitlines()] == expected
    result = dhox.bench(
        export, out="b", data=place / "data", device="cpu", duration=0.05, energy=0, batch="1", scope="pipeline"
    )
    answers = read_predictions(result.directory / "predictions.csv")["fp32", "onnxruntime"]
    by_name = {Path(name).as_posix(): answer for name, answer in answers.items()}
    named = [by_name[path.relative_to(place / "data").as_posix()] for path in paths]
    assert [(answer.predicted, answer.probability) for answer in named] == expected


def test_the_server_decodes_for_each_model_as_its_contract_says(place: Path) -> None:
    export = place / "runs/scaled/export"
    dhox.export(place / "runs/full", "other")
    path = next((place / "data/test" / CLASSES[-1]).iterdir())
    work = Work([Asked(export, None), Asked(Path("other"), None)], "cpu", False, metrics := Metrics())
    app = make_app(work, metrics, token=TOKEN, names={"127.0.0.1"}, top=1, largest_upload=300_000, queue=9)
    with TestClient(app, base_url="http://127.0.0.1", headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        (image,) = client.post("/predict", content=path.read_bytes()).json()["images"]
    for answer, folder in zip(image["answers"], (export, Path("other")), strict=True):
        assert answer["top"][0]["probability"] == float(dhox.load(folder, "cpu")(path).max())


def test_verify_holds_the_machines_scaled_decoding(place: Path, own_place: Path) -> None:
    export = own_place / "export"
    golden = open_export(export).golden()
    assert Image.open(io.BytesIO(golden.jpeg.tobytes())).size == (2 * SIDE, 2 * SIDE)
    assert golden.jpeg_pixels.shape == (SIDE, SIDE, 3)
    assert all(check.passed for check in verify(export, "cpu"))
    manifest = read_json(export / "manifest.json")
    del manifest["preprocessing"]["decode"]
    write_json(export / "manifest.json", manifest)
    with refuses("model.onnx", at="models"):
        dhox.load(export, "cpu")(Image.new("RGB", (30, 30)))
    assert not all(check.passed for check in verify(export, "cpu"))


def test_a_run_whose_decode_was_changed_is_not_exported(own_place: Path) -> None:
    run = read_json(own_place / "run.json")
    del run["preprocessing"]["decode"]
    write_json(own_place / "run.json", run)
    with refuses("val/dress/000.jpg", at="export.stored_answers", fix="preprocessing"):
        dhox.export(own_place, "export")


def test_resume_refuses_another_decode_and_takes_a_run_that_names_none_for_full(place: Path) -> None:
    shutil.copytree(place / "runs/full", "runs/x")
    data = place / "data"
    for _ in range(2):
        with refuses("decode", "'full' there", "'scaled' here", at="distill.resume.earlier_state"):
            quick(data, decode="scaled", shots=8, resume=True)
        run = read_json(Path("runs/x/run.json"))
        run["settings"].pop("decode", None)  # as before there was this option
        write_json(Path("runs/x/run.json"), run)
    assert quick(data, decode="full", shots=8, resume=True).summary.finished_at == run["finished_at"]


def test_a_view_of_a_scaled_picture_shows_what_the_full_one_shows(place: Path) -> None:
    ramp = np.linspace(0, 255, 400)[None, :, None] * np.ones((300, 1, 3))
    Image.fromarray(ramp.astype(np.uint8)).save("ramp.jpg", quality=95)
    items, sizes = [Item("ramp.jpg", "ramp.jpg")], np.array([[400, 300]])
    boxes = Boxes(items, sizes, 0)
    contract = read_run(place / "runs/scaled").preprocessing
    inputs = DecodedInputs(items, boxes, contract, Fabric(accelerator="cpu", devices=1))
    numbers, views = np.zeros(8, int), np.arange(8)
    pixels = inputs.on_host(numbers, views, pin=False).pixels
    assert pixels is not None
    full = [render(read_image(items[0]), box, 28, "bicubic") for box in boxes.originals(numbers, views)]
    assert abs(pixels.numpy().astype(int) - np.stack(full)).max() <= 4  # half a pixel of the scaled picture, and JPEG


def test_boxes_in_decoded_pixels() -> None:
    box = np.array([100, 51, 200, 150, 1])
    assert to_decoded_box(box, np.array([400, 300]), (400, 300)).tolist() == box.tolist()
    assert to_decoded_box(box, np.array([400, 300]), (100, 75)).tolist() == [25, 13, 50, 37, 1]


def test_decoding_at_every_use_trains(place: Path) -> None:
    summary = quick(place / "data", decode="scaled", packed_size=0, shots=2, epoch_over="labelled", method="ce").summary
    assert (summary.training.packed_size, summary.preprocessing.decode) == (0, "scaled")
