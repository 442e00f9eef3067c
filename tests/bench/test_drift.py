"""`dhox drift` on a real export: images, or answers of a board, in; drift.json, a page and an exit code out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageFilter
from refusals import refuses

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.drift import Drift
from dhox.artefacts.files import sha256
from dhox.artefacts.logits import Logits
from dhox.artefacts.record import read_record
from dhox.bench.drift.options import DriftOptions
from dhox.bench.drift.run import check_drop, drift
from dhox.cli.main import main
from dhox.errors import GateFailedError, UsageError
from dhox.models.classifier import load
from dhox.options.declare import build

CONSOLE_SCRIPT = Path(sys.executable).with_name("dhox")
SAME = ("finished_at", "images", "of_answers", "least_confident", "examples", "notes", "labelled")


def export_of(line: Path) -> Path:
    return line / "runs/tiny/export"


def found(export: Path, *images: Path | str, **options: Any) -> Drift:
    return drift(export, [str(image) for image in images], build(DriftOptions, **options)).drift


@pytest.fixture(scope="module")
def blurred(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images, blurred until they are all alike, without labels."""
    folder = tmp_path_factory.mktemp("blurred")
    for number, file in enumerate(sorted((line / "data/test").rglob("*.png"))):
        Image.open(file).convert("RGB").filter(ImageFilter.GaussianBlur(6)).save(folder / f"{number}.png")
    return folder


def test_validation_itself_raises_no_alarm(line: Path, tmp_path: Path) -> None:
    content = found(export_of(line), line / "data/val", out=tmp_path / "out")
    assert content == read_record(tmp_path / "out/drift.json", Drift)
    assert (content.n, content.n_reference, content.shifted) == (80, 80, False)
    assert content.estimate.accuracy == pytest.approx(content.reference_accuracy.accuracy, abs=0.013)
    assert content.labelled is not None
    assert content.labelled.accuracy == pytest.approx(content.reference_accuracy.accuracy, abs=0.013)
    assert [row.class_ for row in content.classes] == ["bag", "dress", "sandal", "trousers"]
    assert content.reference_histogram == pytest.approx(content.field_histogram, abs=1)
    assert content.estimate.sampling_interval == content.estimate.interval
    confidences = [image.confidence for image in content.least_confident]
    assert confidences == sorted(confidences)


def test_a_planted_shift_is_found_and_gates(line: Path, blurred: Path, tmp_path: Path) -> None:
    content = found(export_of(line), blurred, out=tmp_path / "out", max_estimated_drop=5.0)
    assert content.shifted
    assert {test.what for test in content.tests if test.alarm}
    assert content.labelled is None
    assert content.estimate.interval[1] > content.estimate.sampling_interval[1]
    with refuses(5, content.n, content.n_reference, at="bench.drift.run.check_drop", kind=GateFailedError):
        check_drop(content)
    bound = content.estimate.drop_bound
    check_drop(msgspec.structs.replace(content, max_estimated_drop=bound))
    with refuses(at="bench.drift.run.check_drop", kind=GateFailedError):
        check_drop(msgspec.structs.replace(content, max_estimated_drop=bound - 1e-9))


def test_answers_of_a_board_are_enough(line: Path, tmp_path: Path) -> None:
    export, data = export_of(line), line / "data/test"
    main_ok("predict", str(export), str(data), "--jsonl", "a.jsonl", "--csv", "a.csv")
    of_images = found(export, data, out=tmp_path / "images")
    plain = msgspec.to_builtins(of_images)
    for name in ("a.jsonl", "a.csv"):
        content = found(export, tmp_path / name, out=tmp_path / f"of-{name}")
        assert content.of_answers
        assert {key: value for key, value in msgspec.to_builtins(content).items() if key not in SAME} == {
            key: value for key, value in plain.items() if key not in SAME
        }
        assert content.labelled == of_images.labelled
    cut = (tmp_path / "a.jsonl").read_bytes()[:-20]  # a board that lost power
    (tmp_path / "a.jsonl").write_bytes(cut)
    assert found(export, tmp_path / "a.jsonl", out=tmp_path / "cut").n == 47
    assert (tmp_path / "a.jsonl").read_bytes() == cut


def main_ok(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code in (0, None)


def test_the_command_writes_a_page_that_can_be_written_again(line: Path, blurred: Path, tmp_path: Path) -> None:
    def run(*arguments: str, code: int) -> str:
        done = subprocess.run([CONSOLE_SCRIPT, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    export, out = str(export_of(line)), tmp_path / "out"
    text = run("drift", export, str(blurred), "--out", str(out), "--max-estimated-drop", "1", code=3)
    assert "Accuracy is estimated at" in text
    page = (out / "drift.html").read_text()
    assert page.count("data:image/jpeg") >= 8
    assert "<svg" in page
    (out / "drift.html").unlink()
    run("report", str(out), code=0)
    assert (out / "drift.html").read_text() == page
    run("report", str(out), "--gallery", "0", code=0)
    assert "data:image" not in (out / "drift.html").read_text()
    shutil.rmtree(out)
    content = json.loads(run("drift", export, str(blurred), "--out", str(out), "--json", code=0))
    assert content == json.loads((out / "drift.json").read_bytes())


def test_unreadable_images_are_counted(line: Path, tmp_path: Path) -> None:
    shutil.copytree(line / "data/test", tmp_path / "field")
    (tmp_path / "field/broken.png").write_bytes(b"no image")
    content = found(export_of(line), tmp_path / "field", out=tmp_path / "out")
    assert (content.n, content.unreadable.n) == (48, 1)
    assert "broken.png" in content.unreadable.first[0]


def test_the_reject_threshold_counts(own_line: Path, tmp_path: Path) -> None:
    from dhox import export

    out = own_line / "runs/tiny/export"
    export(own_line / "runs/tiny", out, reject_coverage=0.8, overwrite=True)
    content, threshold = found(out, own_line / "data/test", out=tmp_path / "out"), load(out).reject_threshold
    probs = load(out)(sorted((own_line / "data/test").rglob("*.png"))).max(1)
    assert content.rejected is not None
    assert content.rejected.threshold == threshold
    assert content.rejected.field == pytest.approx((probs < threshold).mean(), abs=0.021)
    low, high = content.rejected.field_interval
    assert low <= content.rejected.field <= high


def test_what_cannot_be_compared_is_refused(own_line: Path, tmp_path: Path) -> None:
    export, data = export_of(own_line), own_line / "data/test"
    with refuses("no-such", at="predicting.sources.find_source", kind=UsageError):
        found(export, "no-such")
    (tmp_path / "empty").mkdir()
    with refuses("empty", at="predicting.sources.folder"):
        found(export, tmp_path / "empty")
    few = sorted(data.rglob("*.png"))[:19]
    with refuses(19, 20, at="bench.drift.field.read_field"):
        found(export, *few)
    assert found(export, *few, next((data / "trousers").iterdir()), out=tmp_path / "twenty").n == 20
    main_ok("predict", str(export), str(data), "--jsonl", "a.jsonl")
    with refuses("a.jsonl", data, at="bench.drift.field.read_field", kind=UsageError):
        found(export, tmp_path / "a.jsonl", data)
    with refuses("rtsp://camera", at="bench.drift.field.recorded", kind=UsageError, fix="--jsonl"):
        found(export, "rtsp://camera")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]

    def with_rows(**change: Any) -> Path:
        (tmp_path / "b.jsonl").write_text("".join(json.dumps(row | change) + "\n" for row in rows))
        return tmp_path / "b.jsonl"

    with refuses("model.onnx 0123456789ab", at="bench.drift.field.checked_answers"):
        found(export, with_rows(model="model.onnx 0123456789ab"))
    with refuses("zebra", at="bench.drift.sample.answers_of"):
        found(export, with_rows(top=[{"class": "zebra", "probability": 1.0}]))
    with refuses("b.jsonl", at="predicting.answer_files.rows"):
        found(export, with_rows(top=[{"class": "bag", "probability": 1.5}]))
    with refuses(0, at="bench.drift.field.read_field"):
        found(export, with_rows(top=[], predicted=None, error="gone"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").touch()
    with refuses("taken", at="artefacts.files.check_output"):
        found(export, data, out=tmp_path / "taken")


def test_an_export_without_validation_answers_is_refused(own_line: Path) -> None:
    export = export_of(own_line)
    few = {name: np.zeros((19, 4), np.float32) for name in ("ce_logits", "kd_logits")}
    names = np.array([str(number) for number in range(19)])
    write_arrays(export / "val.npz", Logits(**few, labels=np.zeros(19, np.int64), names=names))
    manifest = json.loads((export / "manifest.json").read_bytes())
    manifest["files"]["val.npz"] = sha256(export / "val.npz")
    (export / "manifest.json").write_text(json.dumps(manifest))
    with refuses("val.npz", 19, 20, at="bench.drift.sample.stored_reference", fix=("val",)):
        found(export, own_line / "data/test")
