"""Images unlike any seen, by hand and with an export that has an embedding; the second output on every path."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from math import comb
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorrt_rtx_build
from PIL import Image
from refusals import refuses

from dhox import export as export_run
from dhox.artefacts.drift import Drift
from dhox.artefacts.record import read_record
from dhox.bench.drift.options import DriftOptions
from dhox.bench.drift.run import drift
from dhox.bench.drift.shift import Compared, share_test
from dhox.bench.drift.unlike import likeness, nearest, unit
from dhox.cli.main import main
from dhox.distill.small_options import RetuneOptions
from dhox.export.integrations.emit import emit
from dhox.export.retuning.run import retune_export
from dhox.models.classifier import load
from dhox.models.export_directory import open_export
from dhox.models.verify import verify
from dhox.options.declare import build


@pytest.fixture(scope="module")
def embedded(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of `line` in all precisions with an embedding."""
    out = tmp_path_factory.mktemp("embedded") / "export"
    export_run(line / "runs/tiny", out, fp16=True, emit_embedding=True)
    return out


def test_nearest_by_hand() -> None:
    known = unit(np.array([[2.0, 0], [0, 3], [1, 1], [1, 0], [0, 1], [-1, 0], [0, -1]]))
    assert np.linalg.norm(known, axis=1) == pytest.approx(1)
    found = nearest(unit(np.array([[1.0, 0]])), known)
    assert found == pytest.approx([(1 + 1 + 2**-0.5 + 0 + 0) / 5])
    itself = nearest(known, known, skip_itself=True)
    assert itself[0] == pytest.approx((1 + 2**-0.5 + 0 + 0 + 0) / 5)
    assert (unit(np.zeros((1, 2))) == 0).all()


def test_unlike_images_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    known, same = (rng.normal(0, 0.1, (400, 16)) + np.eye(16)[0] for _ in range(2))
    other = rng.normal(0, 0.1, (40, 16)) + np.eye(16)[1]
    like = likeness(known.astype(np.float32), np.concatenate([same, other]).astype(np.float32))
    assert like is not None
    assert (like.reference < like.threshold).mean() == 0.05
    assert (like.field[400:] < like.threshold).all()
    assert (like.field[:400] < like.threshold).mean() == pytest.approx(0.05, abs=0.03)
    assert like.compare().p < 1e-3
    assert likeness(known[:19], same) is None
    assert likeness(known[:20], same) is not None


def test_fishers_test_by_hand() -> None:
    # 1 of 5 before, 4 of 5 now: of the 252 ways to choose 5 of 10, those with 4 or 5 of the 5 marked ones.
    expected = (comb(5, 4) * comb(5, 1) + comb(5, 5)) / comb(10, 5)
    assert share_test(1, 5, 4, 5) == Compared(pytest.approx(0.6), pytest.approx(expected), 0.0)
    assert share_test(3, 5, 0, 5).p == pytest.approx(1.0)
    assert share_test(0, 5, 0, 5).p == 1.0


def test_the_second_output_changes_nothing_of_the_first(line: Path, embedded: Path) -> None:
    plain, manifest = load(line / "runs/tiny/export"), open_export(embedded).manifest
    images = sorted((line / "data/test").rglob("*.png"))
    for precision, allowed in (("fp32", 1e-6), ("fp16", 1e-3)):
        one, other = (load(path, "cpu", precision)(images) for path in (plain.path, embedded))
        assert np.abs(one - other).max() <= allowed
    assert manifest.embedding == open_export(embedded).heads().ce_weight.shape[1]
    assert all(check.passed for check in verify(embedded))
    assert [check.file for check in verify(embedded)].count("embeddings.npz") == 1
    stored, first = open_export(embedded).embeddings(), open_export(embedded).validation().names.tolist()
    assert stored.names.tolist() == first
    file = line / "data" / first[0]
    _, embeddings = load(embedded).probs_and_embeddings(pixels_of([file], load(embedded)))
    assert embeddings is not None
    assert embeddings[0] == pytest.approx(stored.embedding[0], abs=1e-4)
    assert load(plain.path).probs_and_embeddings(pixels_of([file], plain))[1] is None


def pixels_of(files: list[Path], model: object) -> np.ndarray:
    from dhox.runtimes.predict import pixels_of as cut

    return cut(files, model.preprocessing)  # type: ignore[attr-defined]


def test_a_graph_with_an_embedding_builds_for_tensorrt(embedded: Path) -> None:
    for name in ("model.onnx", "model.fp16.onnx"):
        model = onnx.load(embedded / name)
        assert [output.name for output in model.graph.output] == ["probs", "embedding"]
        assert model.graph.output[1].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        tensorrt_rtx_build.build(embedded / name)


@pytest.mark.slow
def test_every_other_command_takes_such_an_export(line: Path, embedded: Path, tmp_path: Path) -> None:
    own = tmp_path / "export"
    shutil.copytree(embedded, own)
    data = str(line / "data/test")
    for arguments in (
        ("predict", str(own), data),
        ("bench", str(own), "--device", "cpu", "--duration", "0.05", "--energy", "0", "--batch", "1,4", "--out", "b"),
        ("export", str(own), "--camera", "64x48"),
        ("export", str(own), "--emit", "triton"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        assert ended.value.code in (0, None)
    assert all(check.passed for check in verify(own))
    assert "embedding" in next((own / "triton").glob("*/config.pbtxt")).read_text()
    with refuses("embedding", at="export.integrations.deepstream.deepstream_files", fix="--emit-embedding"):
        out = tmp_path / "planar"
        export_run(line / "runs/tiny", out, input="float-nchw-255", emit_embedding=True)
        emit(out, "deepstream")
    retuned = retune_export(own, tmp_path / "retuned", build(RetuneOptions, alpha=0.5, beta=1.0))
    assert retuned.manifest.embedding == open_export(own).manifest.embedding
    assert (tmp_path / "retuned/embeddings.npz").read_bytes() == (own / "embeddings.npz").read_bytes()
    assert all(check.passed for check in verify(tmp_path / "retuned"))


def test_drift_shows_images_unlike_any_seen(line: Path, embedded: Path, tmp_path: Path) -> None:
    field, rng = tmp_path / "field", np.random.default_rng(0)
    field.mkdir()
    for number, file in enumerate(sorted((line / "data/test").rglob("*.png"))):
        shutil.copy(file, field / f"usual-{number}.png")
    for number in range(16):
        Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8)).save(field / f"odd-{number}.png")
    content = drift(embedded, [str(field)], build(DriftOptions, out=tmp_path / "out")).drift
    assert content == read_record(tmp_path / "out/drift.json", Drift)
    assert content.unlike is not None
    assert {Path(image.path).name.split("-")[0] for image in content.unlike.images[:12]} == {"odd"}
    assert content.unlike.field >= 16 / 64
    assert [test.what for test in content.tests if test.alarm and test.what == "unlike"] == ["unlike"]
    similarities = [image.similarity for image in content.unlike.images]
    assert similarities == sorted(similarities, key=lambda one: one or 0.0)
    script = Path(sys.executable).with_name("dhox")
    done = subprocess.run([script, "report", tmp_path / "out"], capture_output=True, text=True, check=True)
    assert "drift.html" in done.stdout
    assert "Most unlike any seen" in (tmp_path / "out/drift.html").read_text()


def test_a_graph_without_its_embedding_is_refused(embedded: Path, tmp_path: Path) -> None:
    own = tmp_path / "export"
    shutil.copytree(embedded, own)
    manifest = json.loads((own / "manifest.json").read_bytes())
    (own / "manifest.json").write_text(json.dumps({**manifest, "embedding": None}))
    with refuses("outputs", at="models.export_directory.check_metadata"):
        load(own)
    files = {name: digest for name, digest in manifest["files"].items() if name != "embeddings.npz"}
    (own / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
    with refuses("embeddings.npz", at="artefacts.record.decode"):
        open_export(own)
