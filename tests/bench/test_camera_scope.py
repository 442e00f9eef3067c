"""The scope camera: a camera file beside the ordinary file behind Pillow and behind OpenCV."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import dhox.bench
from dhox.artefacts.bench import Bench
from dhox.artefacts.frame import Camera, Roi
from dhox.bench.camera_models import opencv_input, pillow_input
from dhox.bench.remote.bundle import Bundle, add_models
from dhox.data.frames import frame_input
from dhox.errors import UsageError
from dhox.export.camera.run import add_cameras
from dhox.models.export_directory import open_export
from dhox.reports.pages.bench_cameras import camera_section, way_rows

NAME = "camera-96x64-nv12-fp32"
WAYS = [f"{NAME} behind Pillow", NAME, f"{NAME} behind OpenCV"]


@pytest.fixture(scope="module")
def export(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cameras")
    shutil.copytree(line, root / "line", ignore=shutil.ignore_patterns("bench"))
    add_cameras(root / "line/runs/tiny/export", [Camera(96, 64, "nv12", "bt601", "limited")], ("fp32",))
    return root / "line/runs/tiny/export"


def quick(export: Path, out: Path, scope: str | None) -> Bench:
    more = {} if scope is None else {"scope": scope}
    return dhox.bench(  # type: ignore[operator]
        export, out=out, device="cpu", duration=0.05, energy=0, batch="1", precision=("fp32",), **more
    ).bench


def test_three_ways_are_timed_in_one_bench_and_paired_against_pillow(export: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    found = quick(export, tmp_path / "b", None)
    assert found.settings.scopes == ["device", "e2e", "pipeline", "camera"]
    assert [row.model for row in found.latency if row.scope == "camera"] == WAYS
    assert {row.scope for row in found.latency if row.model == "fp32"} == {"device", "e2e", "pipeline"}
    assert [(row.reference_model, row.model) for row in found.comparisons] == [(WAYS[0], WAYS[1]), (WAYS[0], WAYS[2])]
    assert [(row.model, row.passed) for row in found.golden] == [("fp32", True), (NAME, True)]
    assert [(row.what, row.model) for row in found.not_run] == [("accuracy", NAME)]
    (e2e,) = [row.latency_ms.p50 for row in found.latency if row.scope == "e2e"]
    for row in way_rows(found):
        assert row.share == max(0.0, 1 - e2e / row.latency.latency_ms.p50)
    section = camera_section(found)
    assert [line[4].text for line in section.tables[0].rows] == ["Pillow", "in the graph", "OpenCV"]
    assert "preprocessing" in section.charts[0].draw()


def test_without_opencv_its_rows_are_named_as_not_run(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    found = quick(export, tmp_path / "b", "camera")
    assert [row.model for row in found.latency] == [NAME]
    assert {row.model for row in found.not_run if "dhox[camera]" in row.reason} == {WAYS[0], WAYS[2]}
    assert [row.share for row in way_rows(found)] == [None]


def test_scope_camera_without_a_camera_file_says_how_to_make_one(line: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        quick(line / "runs/tiny/export", tmp_path / "b", "e2e,camera")
    assert "dhox export EXPORT --camera" in caught.value.fix
    plain = quick(line / "runs/tiny/export", tmp_path / "c", None)
    assert plain.settings.scopes == ["device", "e2e", "pipeline"]
    assert not camera_section(plain).tables


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("format_", ["rgb", "bgr", "gray", "nv12", "yuyv"])
def test_both_ways_show_the_picture_of_the_contract(export: Path, format_: str, rotate: int) -> None:
    pytest.importorskip("cv2")
    yuv = ("bt601", "limited") if format_ in ("nv12", "yuyv") else (None, None)
    camera = Camera(96, 64, format_, *yuv, rotate, Roi(4, 6, 50, 40))  # type: ignore[arg-type]
    ramp = np.linspace(60, 180, int(np.prod(camera.shape))).astype(np.uint8).reshape(camera.shape)
    taken = open_export(export).manifest.preprocessing
    wanted = frame_input(ramp, camera, taken).astype(int)
    for one in (pillow_input, opencv_input):
        assert abs(one(ramp, camera, taken) - wanted).mean() < 3


def test_a_board_is_sent_the_camera_files(export: Path, tmp_path: Path) -> None:
    bundle = Bundle(tmp_path)
    add_models(bundle, [export], None)
    sent = {path.name for path in tmp_path.rglob("*") if path.parent.name == "96x64-nv12-fp32"}
    assert sent == {"camera.json", "frames.npz", "model.camera-96x64-nv12.fp32.onnx"}
