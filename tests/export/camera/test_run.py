"""dhox export EXPORT --camera on a real export: what is written, what proves it, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from plain_files import write_json
from refusals import refuses

from dhox.artefacts.camera import CAMERA_FILE, CameraModel
from dhox.artefacts.files import sha256
from dhox.artefacts.frame import Camera, Roi
from dhox.cli.main import main
from dhox.errors import GateFailedError, UsageError
from dhox.export.camera import proof
from dhox.export.camera.run import add_cameras
from dhox.models.camera_files import camera_files
from dhox.models.export_directory import open_export
from dhox.models.verify import verify
from dhox.runtimes.onnxruntime_session import OnnxSession

NV12 = Camera(96, 64, "nv12", "bt709", "full")
NAME = "cameras/96x64-nv12-bt709-full-fp16"


@pytest.fixture(scope="module")
def filmed_line(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of `line` with a camera file, and no engine or bench."""
    root = tmp_path_factory.mktemp("cameras")
    shutil.copytree(line, root / "line", ignore=shutil.ignore_patterns("bench"))
    add_cameras(root / "line/runs/tiny/export", [NV12])
    return root / "line/runs/tiny/export"


@pytest.fixture
def export(filmed_line: Path, tmp_path: Path) -> Path:
    shutil.copytree(filmed_line, tmp_path / "export")
    return tmp_path / "export"


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == 0


def failed(export: Path) -> dict[str, str]:
    return {row.what: row.found for row in verify(export, "cpu") if row.passed is False}


def test_the_export_stays_as_it_is_and_gains_a_folder(line: Path, filmed_line: Path) -> None:
    before = line / "runs/tiny/export"
    for path in before.iterdir():
        if path.is_file():
            assert sha256(path) == sha256(filmed_line / path.name)
    assert sorted(path.name for path in (filmed_line / NAME).iterdir()) == [
        "camera.json", "example_camera.py", "frames.npz", "model.camera-96x64-nv12.fp16.onnx"
    ]  # fmt: skip


def test_what_the_sidecar_says(filmed_line: Path) -> None:
    (one,) = camera_files(open_export(filmed_line))
    model = one.model
    assert model.camera == NV12
    assert model.cost.frame_bytes == 96 * 64 * 3 // 2
    assert 0 < model.cost.mac <= model.cost.dense_mac
    assert model.pixels.within_one >= 0.995
    assert model.ledger is not None
    assert model.ledger.n == model.check.n == model.pixels.n
    assert model.ledger.agreement == model.check.agreement
    assert model.source.file == "model.fp16.onnx"
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(one.onnx()).metadata_props}
    assert metadata["dhox.camera"]["format"] == "nv12"
    assert metadata["dhox.classes"] == open_export(filmed_line).manifest.names


def test_batches_of_frames_answer_as_frames_alone(filmed_line: Path) -> None:
    (one,) = camera_files(open_export(filmed_line))
    frames = one.frames().frames.reshape(-1, *NV12.shape)
    session = OnnxSession(one.onnx(), precision="fp16")
    together = session.infer(np.concatenate([frames] * 3))
    assert together.shape == (3 * len(frames), 4)
    for at, frame in enumerate(frames):
        assert abs(session.infer(frame[None])[0] - together[at]).max() < 1e-3


def test_verify_passes_and_finds_each_damage(export: Path) -> None:
    assert not failed(export)
    rows = [row for row in verify(export, "cpu") if row.file.startswith("cameras/")]
    assert [row.what for row in rows] == ["metadata", "preprocessing", "hash", "golden frames"]
    model = export / NAME / "model.camera-96x64-nv12.fp16.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "metadata" in failed(export)
    model.write_bytes(whole)
    frames = export / NAME / "frames.npz"
    content = frames.read_bytes()
    frames.write_bytes(content[:100])
    assert "preprocessing" in failed(export)
    frames.write_bytes(content)
    sidecar = export / NAME / CAMERA_FILE
    told = json.loads(sidecar.read_text())
    write_json(sidecar, {**told, "camera": {**told["camera"], "colour": "bt601"}})
    assert "camera in the file" in failed(export)["metadata"]
    write_json(sidecar, {**told, "source": {**told["source"], "sha256": "0" * 64}})
    assert "camera file" in failed(export)
    sidecar.write_text("{")
    assert "camera file" in failed(export)


def test_a_file_whose_answers_moved_fails_its_golden_frames(export: Path) -> None:
    """Somebody rewrites weights and the hashes beside them: the answers tell."""
    folder = export / NAME
    path = folder / "model.camera-96x64-nv12.fp16.onnx"
    model = onnx.load(path)
    conv = next(node for node in model.graph.node if node.op_type == "Conv" and "camera" in node.output[0])
    colours = next(one for one in model.graph.initializer if one.name == conv.input[1])
    darker = onnx.numpy_helper.to_array(colours) / 8
    colours.CopyFrom(onnx.numpy_helper.from_array(darker, colours.name))
    onnx.save(model, path)
    told = json.loads((folder / CAMERA_FILE).read_text())
    write_json(folder / CAMERA_FILE, {**told, "sha256": sha256(path)})
    assert "golden frames" in failed(export)


@pytest.mark.parametrize("kind", ["float-nchw", "float-nchw-255"])
def test_every_kind_of_input_gets_a_camera(line: Path, tmp_path: Path, kind: Any) -> None:
    import dhox

    dhox.export(line / "runs/tiny", tmp_path / "export", input=kind)  # type: ignore[operator]
    (model,) = add_cameras(tmp_path / "export", [Camera(50, 40, "bgr", rotate=270, roi=Roi(3, 4, 30, 40))])
    assert model.pixels.within_one >= 0.995
    assert model.check.agreement == 1
    assert not failed(tmp_path / "export")


def test_without_its_images_golden_ones_are_filmed(export: Path) -> None:
    content = json.loads((export / "manifest.json").read_text())
    write_json(export / "manifest.json", {**content, "data": "/nowhere"})
    (model,) = add_cameras(export, [Camera(40, 30, "gray")])
    assert model.ledger is None
    assert model.ledger_note
    assert model.pixels.frames == "golden images"


def test_a_graph_that_sees_otherwise_is_not_kept(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = proof.frame_input
    monkeypatch.setattr(proof, "frame_input", lambda *given: np.roll(real(*given), 3, axis=0))
    with refuses("99.5", at="export.camera.proof", kind=GateFailedError):
        add_cameras(export, [Camera(64, 64)])
    assert not (export / "cameras/64x64-rgb-fp16").exists()


def test_the_command(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [
        "export",
        str(export),
        "--camera",
        "64x48",
        "--camera",
        "32x24",
        "--camera-format",
        "yuyv",
        "--precision",
        "fp32",
    ]
    run(*line, "--rotate", "90", "--roi", "1,2,20,20")
    printed = capsys.readouterr().out
    assert "64x48 yuyv" in printed
    assert "32x24 yuyv" in printed
    names = {one.folder.name: one for one in camera_files(open_export(export), "fp32")}
    assert set(names) == {f"{size}-yuyv-r90-roi1_2_20_20-fp32" for size in ("64x48", "32x24")}
    with refuses(at="artefacts.files.check_output", fix="--overwrite"):
        main([*line, "--rotate", "90", "--roi", "1,2,20,20"])
    run(*line, "--rotate", "90", "--roi", "1,2,20,20", "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--camera", "640"], ("--camera", "640")),
        (["--camera", "0x480"], ("--camera", "0x480")),
        (["--camera", "641x480", "--camera-format", "nv12"], ("641x480", "nv12")),
        (["--camera", "640x480", "--roi", "600,0,100,100"], ("600,0,100,100", "640x480")),
        (["--camera", "640x480", "--roi", "1,2,3"], ("--roi",)),
        (["--camera", "640x480", "--camera-colour", "bt709"], ("--camera-colour",)),
        (["--roi", "0,0,10,10"], ("--roi", "--camera")),
    ],
)
def test_wrong_cameras_are_usage_errors(export: Path, arguments: list[str], facts: tuple[str, ...]) -> None:
    with refuses(*facts, at="export.options", kind=UsageError):
        main(["export", str(export), *arguments])


def test_a_precision_that_the_export_lacks(export: Path) -> None:
    with refuses("int8", at="models.export_directory.entry"):
        main(["export", str(export), "--camera", "64x48", "--precision", "int8"])


def test_a_run_is_exported_with_its_camera(line: Path, tmp_path: Path) -> None:
    run("export", str(line / "runs/tiny"), "--out", str(tmp_path / "new"), "--camera", "48x48")
    (one,) = camera_files(open_export(tmp_path / "new"))
    assert isinstance(one.model, CameraModel)
    assert one.model.precision == "fp32"


def test_a_region_that_becomes_endless_is_refused(export: Path) -> None:
    with refuses("640x1", at="export.camera.resampling.resize_of", fix="--roi"):
        main(["export", str(export), "--camera", "640x480", "--roi", "0,0,640,1"])


def test_a_folder_without_its_sidecar_is_found(export: Path) -> None:
    (export / NAME / CAMERA_FILE).unlink()
    assert "camera file" in failed(export)


def test_camera_and_triton_in_one_command(export: Path) -> None:
    run("export", str(export), "--camera", "50x40", "--precision", "fp16", "--emit", "triton")
    assert (export / "triton/tiny_50x40-rgb-fp16/1/model.onnx").is_file()
