"""`dhox predict`: tables, files, links, what is read again and what is not, and its end."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses
from small_videos import camera, write_video

import dhox
from dhox.cli.main import main
from dhox.errors import UsageError

DHOX = Path(sys.executable).with_name("dhox")


@pytest.fixture
def export(line: Path) -> str:
    return str(line / "runs/tiny/export")


def predict(*words: object, code: int = 0) -> str:
    """Standard output of the installed command."""
    done = subprocess.run([DHOX, "predict", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_gives_counts_and_the_accuracy_that_its_folders_tell(line: Path, export: str) -> None:
    data = line / "data/test"
    said = predict(export, data, "--csv", "a.csv", "--jsonl", "a.jsonl")
    rows, objects = table("a.csv"), [json.loads(text) for text in Path("a.jsonl").read_text().splitlines()]
    paths = sorted(data.rglob("*.png"))
    assert [row["path"] for row in rows] == [one["path"] for one in objects] == list(map(str, paths))
    probs = dhox.load(export)(paths)
    classes = dhox.load(export).classes
    assert [row["predicted"] for row in rows] == [classes[i] for i in probs.argmax(-1)]
    assert [float(row["probability"]) for row in rows] == pytest.approx(probs.max(-1), abs=1e-5)
    right = sum(row["predicted"] == Path(row["path"]).parent.name for row in rows)
    assert f"Accuracy: {100 * right / 48:.1f} %" in said
    assert "on 48 images whose label is known" in said
    assert "48 answers" in said
    assert {row["label"] for row in rows} == set(classes)
    assert [one["top"][0]["class"] for one in objects] == [row["top"] for row in rows]


def test_a_few_images_are_a_table_of_their_own(line: Path, export: str) -> None:
    images = sorted((line / "data/test/bag").iterdir())[:2]
    said = predict(export, *images, "--top", "2")
    assert all(image.name in said for image in images)
    assert "answers" not in said


def test_what_cannot_be_read_is_counted_named_and_an_error_only_if_asked(line: Path, export: str) -> None:
    shutil.copytree(line / "data/test", "d")
    bad = sorted(Path("d/bag").iterdir())[0]
    bad.write_bytes(b"no image")
    said = predict(export, "d", "--csv", "a.csv")
    assert "Could not be read: 1 of 48" in said
    assert str(bad) in said
    assert [row["path"] for row in table("a.csv") if row["error"]] == [str(bad)]
    assert f"first {bad}" in predict(export, "d", "--strict", code=1)
    assert "not an image" in predict(export, bad, code=1)


def test_answers_go_on_where_they_stopped(line: Path, export: str) -> None:
    data = line / "data/test"
    whole = predict(export, data, "--csv", "whole.csv", "--jsonl", "whole.jsonl")
    lines = Path("whole.csv").read_bytes().splitlines(keepends=True)
    Path("a.csv").write_bytes(b"".join(lines[:21]) + lines[21][:20])  # a kill in the middle of a line
    objects = Path("whole.jsonl").read_bytes().splitlines(keepends=True)
    Path("a.jsonl").write_bytes(b"".join(objects[:30]))  # and the other file is ahead
    again = predict(export, data, "--csv", "a.csv", "--jsonl", "a.jsonl", "--resume")
    assert sorted(Path("a.csv").read_bytes().splitlines()) == sorted(Path("whole.csv").read_bytes().splitlines())
    assert {row["path"] for row in table("a.csv")} == {
        json.loads(text)["path"] for text in Path("a.jsonl").read_text().splitlines()
    }
    assert len(Path("a.jsonl").read_text().splitlines()) == 48
    assert again == whole
    assert predict(export, data, "--csv", "a.csv", "--resume") == whole


def test_a_file_of_answers_is_never_replaced_or_mixed_unasked(
    line: Path, export: str, capsys: pytest.CaptureFixture
) -> None:
    image = str(sorted((line / "data/test/bag").iterdir())[0])
    main_until_end("predict", export, image, "--csv", "a.csv")
    before = Path("a.csv").read_bytes()
    with refuses(
        "a.csv",
        at="predicting.answer_files",
        fix=("--resume", "--overwrite"),
        kind=UsageError,
    ):
        main(["predict", export, image, "--csv", "a.csv"])
    with refuses("a.csv", "model.fp16.onnx", at="predicting.answer_files", fix="--precision"):
        main(["predict", export, image, "--csv", "a.csv", "--resume", "--precision", "fp16"])
    Path("b.csv").write_text("path,label\nx,y\n")
    with refuses("b.csv", at="predicting.answer_files", fix="--overwrite"):
        main(["predict", export, image, "--csv", "b.csv", "--resume"])
    with refuses("--resume", at="cli.predict.predict", fix="--csv", kind=UsageError):
        main(["predict", export, image, "--resume"])
    assert Path("a.csv").read_bytes() == before
    main_until_end("predict", export, image, "--csv", "a.csv", "--overwrite")
    assert Path("a.csv").read_bytes() == before
    with refuses("nowhere", at="predicting.answer_files"):
        main(["predict", export, image, "--csv", "nowhere/a.csv"])


def main_until_end(*words: str) -> None:
    with pytest.raises(SystemExit, match="^0$"):
        main(list(words))


def test_images_are_linked_by_their_answers(line: Path, export: str, capsys: pytest.CaptureFixture) -> None:
    data = line / "data/test"
    shutil.copytree(data / "bag", "more/bag")  # the same names, so that two images want one link
    main_until_end("predict", export, str(data), "more", "--sort-into", "sorted", "--csv", "a.csv")
    links = list(Path("sorted").rglob("*.png"))
    assert len(links) == 48 + 12
    answers = {str(Path(row["path"]).absolute()): row["predicted"] for row in table("a.csv")}
    for link in links:
        assert link.is_symlink()
        assert answers[str(link.readlink())] == link.parent.name
    with refuses("sorted", at="predicting.sort_into", fix="--resume", kind=UsageError):
        main(["predict", export, str(data), "--sort-into", "sorted"])
    write_video(Path("v.mp4"), [np.zeros((64, 64, 3), np.uint8)])
    with refuses("--sort-into", at="cli.predict.predict", kind=UsageError):
        main(["predict", export, "v.mp4", "--sort-into", "other"])
    assert not Path("other").exists()


def test_labels_of_a_manifest_that_are_no_class_are_told(line: Path, export: str) -> None:
    images = sorted((line / "data/test/bag").iterdir())[:3]
    Path("m.csv").write_text(
        "path,label\n" + "".join(f"{image},{name}\n" for image, name in zip(images, ("bag", "hat", ""), strict=True))
    )
    said = predict(export, "m.csv")
    assert "on 1 image whose label is known" in said
    assert "1 hat" in said


def test_paths_come_through_a_pipe(line: Path, export: str) -> None:
    images = "\n".join(map(str, sorted((line / "data/test/bag").iterdir())))
    done = subprocess.run(
        [DHOX, "predict", export, "-", "--json"], input=images, capture_output=True, text=True, check=True
    )
    assert [one["path"] for one in json.loads(done.stdout)] == images.split("\n")


def test_a_video_has_a_row_per_frame(line: Path, export: str, capsys: pytest.CaptureFixture) -> None:
    frames = [
        np.asarray(Image.open(path).convert("RGB").resize((64, 64)))
        for path in sorted((line / "data/test/bag").iterdir())
    ]
    write_video(Path("v.mp4"), frames)
    main_until_end("predict", export, "v.mp4", "--every", "4", "--csv", "v.csv")
    assert [(row["frame"], row["seconds"]) for row in table("v.csv")] == [("0", "0.0"), ("4", "0.4"), ("8", "0.8")]
    assert "3 answers" in capsys.readouterr().out


def test_ctrl_c_keeps_the_answers_and_says_how_to_go_on(line: Path, export: str) -> None:
    image = sorted((line / "data/test/bag").iterdir())[0]
    process = subprocess.Popen(
        [DHOX, "predict", export, "-", "--csv", "a.csv"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(f"{image}\n" * 3)
    process.stdin.flush()
    wait_for(lambda: Path("a.csv").exists() and len(Path("a.csv").read_text().splitlines()) == 4)
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "a.csv holds what was answered" in error.splitlines()[-1]
    assert error.rstrip().endswith("--resume")
    assert image.name in said


def test_ctrl_c_is_how_a_camera_ends(line: Path, export: str) -> None:
    frames = [
        np.asarray(Image.open(path).convert("RGB").resize((64, 64)))
        for path in sorted((line / "data/test/bag").iterdir())
    ]
    with camera(cycle(frames), 0.02) as address:
        process = subprocess.Popen(
            [DHOX, "predict", export, address, "--jsonl", "a.jsonl"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: Path("a.jsonl").exists() and len(Path("a.jsonl").read_text().splitlines()) > 30)
        process.send_signal(signal.SIGTERM)
        said, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert "answers" in said
    rows = [json.loads(text) for text in Path("a.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == sorted({row["frame"] for row in rows})


def wait_for(there: object) -> None:
    deadline = time.monotonic() + 60
    while not there() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.02)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told_before_the_model_runs(line: Path, export: str) -> None:
    Path("locked").mkdir(mode=0o555)
    assert "locked/a.csv" in predict(export, line / "data/test", "--csv", "locked/a.csv", code=1)


def test_a_disk_that_is_full_keeps_what_is_written(line: Path, export: str) -> None:
    words = [str(DHOX), "predict", export, str(line / "data/test"), "--csv", "a.csv", "--quiet"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 4; exec "$@"', "-", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Could not write a.csv" in done.stderr
    kept = len(Path("a.csv").read_text().splitlines())
    assert kept > 1
    predict(*words[2:], "--resume")
    assert len({row["path"] for row in table("a.csv")}) == len(table("a.csv")) == 48
