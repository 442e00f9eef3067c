"""`dhox export --rehearse-drift`: alterations by hand, and a rehearsed export from the command to drift and retune."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses

from dhox import export as export_run
from dhox.artefacts.arrays import read_arrays, write_arrays
from dhox.artefacts.drift import Drift
from dhox.artefacts.files import sha256
from dhox.artefacts.record import read_record
from dhox.artefacts.rehearsal import REHEARSAL_FILE, Rehearsal
from dhox.bench.drift.options import DriftOptions
from dhox.bench.drift.run import drift
from dhox.distill.small_options import RetuneOptions
from dhox.export.rehearsal.alterations import REHEARSED, brightness, crop, motion, moved
from dhox.export.rehearsal.rehearse import altered, check_enough_labels
from dhox.export.retuning.run import retune_export
from dhox.models.classifier import load
from dhox.models.export_directory import open_export
from dhox.models.verify import verify
from dhox.options.declare import build

CONSOLE_SCRIPT = Path(sys.executable).with_name("dhox")
WAYS = [(change, strength) for change, strengths in REHEARSED for strength in strengths]


def run(*arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run([CONSOLE_SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def rehearsed(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of `line` with a rehearsal, by the console script."""
    out = tmp_path_factory.mktemp("rehearsed") / "export"
    run("export", line / "runs/tiny", "--rehearse-drift", "--out", out)
    return out


@pytest.mark.parametrize("side", [8, 28])
def test_every_alteration_keeps_the_size_and_is_the_same_each_time(side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    for number, (change, strength) in enumerate(WAYS):
        once, again = (altered(pixels, change, strength, number) for _ in range(2))
        assert (once.shape, once.dtype) == (pixels.shape, np.uint8), change.__name__
        assert np.array_equal(once, again), change.__name__
        assert side == 8 or not np.array_equal(once, pixels), change.__name__


def test_alterations_by_hand() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 100, (20, 20, 3), np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(moved(image, 0.1, rng)), np.roll(pixels, (2, 2), (0, 1)))
    expected = np.mean([np.roll(pixels, step, 1) for step in (-1, 0, 1)], 0)
    assert np.abs(np.asarray(motion(image, 0.15, rng)) - expected).max() <= 0.5
    assert np.array_equal(np.asarray(brightness(image, 2.0, rng)), 2 * pixels)
    flat = Image.new("RGB", (20, 20), (7, 8, 9))
    assert np.array_equal(np.asarray(crop(flat, 0.5, rng)), np.asarray(flat))


def test_a_rehearsal_is_what_the_export_answers(line: Path, rehearsed: Path) -> None:
    export = open_export(rehearsed)
    found, val = export.rehearsal(), export.validation()
    assert found is not None
    assert found.kinds.tolist() == ["none", *[change.__name__ for change, _ in WAYS]]
    assert found.strengths.tolist() == [0.0, *[strength for _, strength in WAYS]]
    assert found.labels.tolist() == val.labels.tolist()
    model, files = load(rehearsed), [line / "data" / name for name in val.names]
    probs = model(files)
    assert found.confidence[0] == pytest.approx(probs.max(1), abs=1e-5)
    assert found.predicted[0].tolist() == probs.argmax(1).tolist()
    dark = model([brightness(Image.open(file).convert("RGB"), 0.5, np.random.default_rng(0)) for file in files])
    row = found.kinds.tolist().index("brightness")
    assert found.confidence[row] == pytest.approx(dark.max(1), abs=1e-4)
    assert open_export(line / "runs/tiny/export").rehearsal() is None


def test_drift_estimates_by_the_rehearsal(line: Path, rehearsed: Path, tmp_path: Path) -> None:
    field = tmp_path / "field"
    field.mkdir()
    for number, file in enumerate(sorted((line / "data/test").rglob("*.png"))):
        brightness(Image.open(file).convert("RGB"), 0.15, np.random.default_rng(0)).save(field / f"{number}.png")
    content = drift(rehearsed, [str(field)], build(DriftOptions, out=tmp_path / "images")).drift
    assert content == read_record(tmp_path / "images/drift.json", Drift)
    assert content.shifted
    assert content.estimate.method == "rehearsed"
    low, high = content.estimate.interval
    assert 0 <= low <= content.estimate.accuracy <= high <= 1
    by_class = drift(line / "runs/tiny/export", [str(field)], build(DriftOptions, out=tmp_path / "plain")).drift
    assert by_class.estimate.method == "atc-by-class"
    assert (by_class.estimate.atc, by_class.estimate.doc) == (content.estimate.atc, content.estimate.doc)
    run("predict", rehearsed, field, "--jsonl", tmp_path / "a.jsonl")
    text = run("drift", rehearsed, tmp_path / "a.jsonl", "--out", tmp_path / "answers")
    assert "rehearsal" in text
    assert read_record(tmp_path / "answers/drift.json", Drift).estimate == content.estimate
    assert "Rehearsed shifts" in (tmp_path / "answers/drift.html").read_text()


def test_a_changed_rehearsal_is_found(line: Path, rehearsed: Path, tmp_path: Path) -> None:
    own = tmp_path / "export"
    shutil.copytree(rehearsed, own)
    rows = {check.file: check.passed for check in verify(own)}
    assert rows[REHEARSAL_FILE]
    assert all(passed is not False for passed in rows.values())
    file = own / REHEARSAL_FILE
    found = read_arrays(file, Rehearsal, C=4)
    write_arrays(file, found.of(found.kinds != "blur"), C=4)
    assert [check.file for check in verify(own) if check.passed is False] == [REHEARSAL_FILE]
    assert REHEARSAL_FILE in run("drift", own, line / "data/test", code=1)
    manifest = json.loads((own / "manifest.json").read_bytes())
    for kept, why in ((found.kinds == "none", "none"), (found.kinds != "none", "none")):
        values = vars(found) | {
            name: vars(found)[name][kept] for name in ("kinds", "strengths", "confidence", "predicted")
        }
        np.savez(file, **values)
        manifest["files"][REHEARSAL_FILE] = sha256(file)
        (own / "manifest.json").write_text(json.dumps(manifest))
        with refuses(REHEARSAL_FILE, why, at="artefacts.arrays.read_arrays"):
            open_export(own).rehearsal()
        assert [check.what for check in verify(own) if check.passed is False] == ["content"]


def test_a_retuned_export_drops_it_and_says_so(rehearsed: Path, tmp_path: Path) -> None:
    retuned = retune_export(rehearsed, tmp_path / "retuned", build(RetuneOptions, alpha=0.5, beta=1.0))
    assert not (tmp_path / "retuned" / REHEARSAL_FILE).exists()
    assert retuned.manifest.retuned_from is not None
    assert REHEARSAL_FILE in retuned.manifest.retuned_from.left_out
    assert open_export(tmp_path / "retuned").rehearsal() is None
    text = run("retune", rehearsed, "--alpha", "0.5", "--beta", "1", "--out", tmp_path / "again")
    assert REHEARSAL_FILE in text


def test_too_few_labels_are_refused_before_anything_else(own_line: Path, tmp_path: Path) -> None:
    with refuses(19, 20, at="export.rehearsal.rehearse.check_enough_labels", fix="val"):
        check_enough_labels(tmp_path, 19)
    check_enough_labels(tmp_path, 20)
    run = own_line / "runs/tiny"
    content, selection = (json.loads((run / name).read_bytes()) for name in ("run.json", "selection.json"))
    content["sets"] |= {"validation": content["sets"]["validation"][:19], "n_validation": 19}
    with np.load(run / "val.npz") as stored:
        few = {name: array[:19] if len(array) == 80 else array for name, array in stored.items()}
    np.savez(run / "val.npz", **few)
    (run / "selection.json").write_text(json.dumps(selection | {"n_validation": 19, "n_selection_labels": 19}))
    content["files"] |= {name: sha256(run / name) for name in ("val.npz", "selection.json")}
    (run / "run.json").write_text(json.dumps(content))
    shutil.rmtree(own_line / "data")  # which is not looked for
    with refuses(19, at="export.rehearsal.rehearse.check_enough_labels"):
        export_run(run, tmp_path / "out", rehearse_drift=True)
    assert not (tmp_path / "out").exists()
