"""What the words of the command line mean, and which labels their images have."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses

import dhox
from dhox.errors import UsageError
from dhox.models.classifier import ExportedModel
from dhox.predicting.sources import Reading, find_source

READING = Reading(frozenset({"cat", "dog"}))


def pictures(word: str) -> list[tuple[str, str | None]]:
    return [(picture.name, picture.label) for picture in find_source(word, READING).pictures()]


def save(*names: str) -> None:
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (number, 0, 0)).save(name)


def test_a_folder_gives_its_images_in_order_with_the_labels_of_their_folders() -> None:
    save("d/test/dog/b.png", "d/test/dog/a.png", "d/test/cat/far/cat.png", "d/other/x.jpg", "d/top.bmp")
    Path("d/notes.txt").touch()
    assert pictures("d") == [
        ("d/top.bmp", None),
        ("d/other/x.jpg", None),
        ("d/test/cat/far/cat.png", "cat"),
        ("d/test/dog/a.png", "dog"),
        ("d/test/dog/b.png", "dog"),
    ]
    source = find_source("d", READING)
    assert source.count == 5
    assert source.leftovers.lines() == ["Not read: 1 file of no image format that is read here (1 .txt)."]
    assert pictures("d/test/dog") == [("d/test/dog/a.png", "dog"), ("d/test/dog/b.png", "dog")]
    assert pictures("d/test/dog/a.png") == [("d/test/dog/a.png", None)]


def test_a_pattern_labels_by_the_folders_from_its_first_wildcard_on() -> None:
    save("cat/set/dog/1.png", "cat/set/hen/2.png", "cat/set/dog/deep/3.png")
    assert pictures("cat/set/*/*.png") == [("cat/set/dog/1.png", "dog"), ("cat/set/hen/2.png", None)]
    assert [name for name, _ in pictures("cat/**/*.png")] == [
        "cat/set/dog/1.png",
        "cat/set/dog/deep/3.png",
        "cat/set/hen/2.png",
    ]
    with refuses("no/*.png", at="predicting.sources.pattern"):
        find_source("no/*.png", READING)


def test_a_file_whose_name_looks_like_a_pattern_is_a_file() -> None:
    save("a[1].png")
    assert pictures("a[1].png") == [("a[1].png", None)]


def test_a_manifest_needs_no_labels_and_its_rows_may_point_to_nothing() -> None:
    save("x/1.png", "x/2.png")
    Path("m.csv").write_text("path;label;split\nx\\1.png;cat;test\nx/2.png;;\ngone.png;bird;\n")
    assert pictures("m.csv") == [("x/1.png", "cat"), ("x/2.png", None), ("gone.png", "bird")]
    assert find_source("m.csv", READING).count == 3
    Path("p.csv").write_text("filename\nx/1.png\n")
    assert pictures("p.csv") == [("x/1.png", None)]
    Path("e.csv").write_text("path,label\n")
    with refuses("e.csv", at="predicting.sources.file"):
        find_source("e.csv", READING)


def test_paths_come_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.png\n\nb c.png\r\nlast.png"))
    assert pictures("-") == [("a.png", None), ("b c.png", None), ("last.png", None)]


def test_what_holds_no_image_is_refused() -> None:
    Path("empty").mkdir()
    Path("empty/x.txt").touch()
    with refuses("empty", at="predicting.sources.folder", fix=".txt"):
        find_source("empty", READING)
    with refuses("nothing.png", at="predicting.sources.find_source", fix=("camera:0", "-"), kind=UsageError):
        find_source("nothing.png", READING)


def test_a_program_gets_the_same_as_an_iterator(line: Path) -> None:
    model: ExportedModel = dhox.load(line / "runs/tiny/export")
    paths = sorted((line / "data/test").rglob("*.png"))
    found = list(model.stream(line / "data/test"))
    assert [one.picture.name for one in found] == [str(path) for path in paths]
    assert [one.picture.label for one in found] == [path.parent.name for path in paths]
    assert np.stack([one.probs for one in found]) == pytest.approx(model(paths), abs=1e-6)
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    again = list(model.stream(arrays, (array for array in arrays[:3])))
    assert np.stack([one.probs for one in again]) == pytest.approx(model([*paths, *paths[:3]]), abs=1e-6)
    assert [one.picture.name for one in again[-3:]] == ["image 0", "image 1", "image 2"]
    assert list(model.stream()) == []
    with refuses("nowhere", at="predicting.sources.find_source", kind=UsageError):
        model.stream("nowhere")


def test_memory_holds_a_few_images_at_a_time(line: Path) -> None:
    model = dhox.load(line / "runs/tiny/export")
    image = np.zeros((50, 50, 3), np.uint8)
    given = 0

    def endless():
        nonlocal given
        while True:
            given += 1
            yield image

    stream = model.stream(endless())
    for _ in range(100):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert given < 400


def test_an_error_of_a_program_s_own_images_is_raised(line: Path) -> None:
    def broken():
        yield np.zeros((50, 50, 3), np.uint8)
        raise ZeroDivisionError

    model = dhox.load(line / "runs/tiny/export")
    with pytest.raises(ZeroDivisionError):
        list(model.stream(broken()))


def test_an_unreadable_image_has_an_answer_that_says_why(line: Path) -> None:
    model = dhox.load(line / "runs/tiny/export")
    shutil.copytree(line / "data/test/bag", "bag")
    first = sorted(Path("bag").iterdir())[0]
    first.write_bytes(first.read_bytes()[:60])
    found = list(model.stream("bag"))
    assert [one.probs is None for one in found] == [True] + [False] * 11
    assert found[0].error
    assert str(first) not in found[0].error  # the name stands beside it
