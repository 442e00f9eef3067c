"""The pictures of a page: the right images with the right words, few bytes, nothing from outside."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html import unescape
from pathlib import Path

import msgspec
import numpy as np
import pytest
from bench_example import example
from PIL import Image
from plain_files import read_json, write_json

from dhox.artefacts.bench import Bench
from dhox.artefacts.ledger import Ledger
from dhox.artefacts.predictions import Answer, read_predictions
from dhox.cli.main import main
from dhox.evidence.ledger import make_ledger
from dhox.evidence.statistics import wilson_interval
from dhox.reports.album import MOST_BYTES, SIDE, Album, Wanted, find_items, open_album
from dhox.reports.html import write_page
from dhox.reports.judged import Judged, judged_by_file
from dhox.reports.pages.bench_verdict import bench_verdict, best_of
from dhox.reports.pages.gallery import Gallery, Threshold, gallery_sections
from dhox.reports.pages.run import write_report
from dhox.reports.pages.run_verdict import lost_since_training
from dhox.reports.sections import Page

replace = msgspec.structs.replace
HOSTILE = ['<script>alert("1")</script>', "\"'&<b>", "{{ 7 * 7 }}", "a/b:c_d"]


def uris(page: str) -> list[str]:
    return re.findall(r'<image [^>]*href="(data:image/jpeg;base64,[^"]*)"', page)


def captions(page: str, heading: str) -> list[tuple[str, str]]:
    """What is said of the pictures under a heading, and their names."""
    part = page[page.index(f"<h2>{heading}") :].partition("</section>")[0]
    found = re.findall(r'<span class="says [^"]*">([^<]*)</span> <small>(.*?)</small>', part)
    return [(unescape(text), unescape(name.replace("<wbr>", ""))) for text, name in found]


def said_of(answer: Answer) -> str:
    told = f"{answer.predicted}, {100 * answer.probability:.1f}\N{NO-BREAK SPACE}%"
    return told if answer.label == answer.predicted else f"{told}\nis: {answer.label}"


def image_files(folder: Path, count: int, side: int = 60) -> Path:
    """Images of noise, which no JPEG makes small: CLASS/NUMBER.png in test/."""
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / "test" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (side, side, 3), np.uint8)).save(place / f"{number:03}.png")
    return folder


def judged(names: list[str], classes: list[str], labels: list[int], answers: list[int], sure: list[float]) -> Judged:
    return Judged(classes, names, np.array(labels), np.array(answers), np.array(sure), "test", "x.onnx")


def page_of(gallery: Gallery) -> str:
    return write_page(Path("page.html"), Page("p", sections=gallery_sections(gallery))).read_text(encoding="utf-8")


def test_a_run_page_begins_with_its_verdict_and_the_right_pictures(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    page = write_report(run).read_text(encoding="utf-8")
    answers = read_predictions(next(run.glob("bench/*/predictions.csv")))["fp16", "onnxruntime"]
    wrong = sorted((a for a in answers.items() if a[1].label != a[1].predicted), key=lambda a: -a[1].probability)
    right = sorted((a for a in answers.items() if a[1].label == a[1].predicted), key=lambda a: a[1].probability)
    start = page[page.index('<div class="verdict">') : page.index("<section")]
    assert f"Ship model.fp16.onnx: {100 * len(right) / 48:.1f} % (" in start
    assert "on 48 test images, " in start
    assert "since training" in start
    assert " ms per image on " in start
    assert len(re.findall("<dt>", start)) == 3
    for heading, expected in (("Most confident mistakes", wrong), ("Least confident right answers", right)):
        shown = captions(page, heading)
        assert shown == [(said_of(answer), name) for name, answer in expected[:16]]
        assert shown
    order = ["Most confident", "Least confident", "What the reject", "Examples of every", "Confusion", "Accuracy, size"]
    places = [page.index(f"<h2>{heading}") for heading in order]
    assert places == sorted(places)


def test_each_image_is_embedded_once_and_all_within_the_limit(own_line: Path) -> None:
    page = write_report(own_line / "runs/tiny").read_text(encoding="utf-8")
    assert len(uris(page)) == len({*uris(page)})
    assert page.count("<use ") > len(uris(page)) > 30
    assert sum(map(len, uris(page))) <= MOST_BYTES
    assert {*re.findall(r'<use href="#([^"]*)"', page)} == {*re.findall(r'<image id="([^"]*)"', page)}
    assert not re.findall(r"<(?:script|link|img|iframe|object)\b", page)
    assert not re.findall(r"(?:src|href)=\"(?!#|data:image/jpeg;base64,)|url\((?!#)|@import", page)


def test_the_limit_holds_unless_more_pictures_are_asked_for() -> None:
    items = find_items(image_files(Path("data"), 300), {f"test/{'ab'[i % 2]}/{i:03}.png" for i in range(300)}, "test")
    assert len(items) == 300
    limited, whole = Album(items), Album(items, limit=None)
    shown = limited.pictures(Wanted(name, "") for name in items)
    assert 20 < len(shown) < 300
    assert [picture.name for picture in shown] == [*items][: len(shown)]
    size = sum(len(picture.uri) for picture in shown)
    assert MOST_BYTES - max(len(picture.uri) for picture in whole.pictures(Wanted(n, "") for n in items)) < size
    assert size <= MOST_BYTES
    assert limited.pictures([Wanted(shown[0].name, "again")])[0].text == "again"
    assert len(whole.pictures(Wanted(name, "") for name in items)) == 300


@pytest.mark.parametrize(("most", "shown"), [(None, 16), (1, 1), (40, 30)])
def test_a_gallery_of_n_has_n_of_each_kind(most: int | None, shown: int) -> None:
    data = image_files(Path("data"), 60)
    names = [f"test/{'ab'[i % 2]}/{i:03}.png" for i in range(60)]
    answered = judged(names, ["a", "b"], [i % 2 for i in range(60)], [0] * 60, [i / 60 for i in range(60)])
    page = page_of(Gallery(answered, open_album([str(data)], names, "test", most), most))
    mistakes = captions(page, "Most confident mistakes")
    assert [name for _, name in mistakes] == [f"test/b/{i:03}.png" for i in range(59, 0, -2)][:shown]
    assert len(captions(page, "Least confident right answers")) == shown


def test_no_pictures_are_drawn_where_none_are_wanted_or_data_is_gone(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    page = write_report(run, gallery=0).read_text(encoding="utf-8")
    assert uris(page) == []
    assert "No pictures: --gallery 0 asked for none." in page
    where = read_json(run / "run.json")["data"]
    hidden = Path(where).with_name("hidden")
    shutil.move(where, hidden)
    try:
        page = write_report(run).read_text(encoding="utf-8")
    finally:
        shutil.move(hidden, where)
    assert f"No pictures: the images are not on this machine ({where})." in page
    assert "Ship model.fp16.onnx" in page
    assert ">Confusion matrix" in page
    assert "<a href" not in page
    assert "Most confident mistakes" not in page


def test_images_that_are_gone_damaged_or_others_are_left_out_and_counted() -> None:
    data = image_files(Path("data"), 6)
    names = [f"test/{'ab'[i % 2]}/{i:03}.png" for i in range(6)]
    known = dict.fromkeys(names[4:], "0" * 64)
    album = open_album([str(data)], names, "test", None, known)
    (data / names[0]).unlink()
    (data / names[1]).write_bytes(b"no image")
    assert [picture.name for picture in album.pictures(Wanted(name, "") for name in names)] == names[2:4]
    assert album.note() == "Pictures left out: 1 missing, 1 unreadable, 2 changed since."
    assert open_album([str(data)], ["test/a/gone.png"], "test").note().startswith("No pictures: none of the images")


def test_thumbnails_are_upright_and_small() -> None:
    Path("data/test/a").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 200), "red").save("data/test/a/x.jpg", exif=exif)
    (picture,) = open_album(["data"], ["test/a/x.jpg"], "test").pictures([Wanted("test/a/x.jpg", "")])
    assert picture.size == (SIDE // 2, SIDE)
    decoded = Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2])))
    assert decoded.size == picture.size


def test_names_of_classes_and_files_are_escaped() -> None:
    Path("data/test").mkdir(parents=True)
    names = []
    for number, text in enumerate(HOSTILE):
        folder = Path("data/test") / text.replace("/", "_")
        folder.mkdir()
        Image.new("RGB", (9, 9), (60 * number, 0, 0)).save(folder / f"{number}\"><script>'&.png")
        names.append(f"test/{folder.name}/{number}\"><script>'&.png")
    answered = judged(names, HOSTILE, [0, 1, 2, 3], [1, 1, 3, 3], [0.9, 0.8, 0.7, 0.6])
    page = page_of(Gallery(answered, open_album(["data"], names, "test"), None, Threshold(0.75, 0.9, True)))
    assert len(uris(page)) == 4
    assert "<script>" not in page
    assert "<b>" not in page
    assert {name for _, name in captions(page, "Most confident mistakes")} == {names[0], names[2]}
    assert f"{HOSTILE[1]}, 90.0\N{NO-BREAK SPACE}%\nis: {HOSTILE[0]}" in [
        text for text, _ in captions(page, "Most confident mistakes")
    ]


def test_the_cells_of_the_matrix_open_their_images() -> None:
    data = image_files(Path("data"), 6)
    names = [f"test/{'ab'[i % 2]}/{i:03}.png" for i in range(6)]
    answered = judged(names, ["a", "b"], [0, 1, 0, 1, 0, 1], [0, 0, 0, 1, 0, 0], [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    page = page_of(Gallery(answered, open_album([str(data)], names, "test")))
    links = re.findall(r'<a href="#(cell-\d-\d)"[^>]*>(\d)</a>', page)
    assert links == [("cell-0-0", "3"), ("cell-1-0", "2"), ("cell-1-1", "1")]
    opened = page[page.index('id="cell-1-0"') : page.index('id="cell-0-0"')]
    assert "b taken for a: 2 images" in opened
    assert re.findall(r"\d{3}\.png(?=</small>)", opened) == ["005.png", "001.png"]


@pytest.mark.parametrize(("value", "unknown", "wrong"), [(0.7, 2, 1), (0.70001, 3, 1), (0.0, 0, 0), (1.0, 4, 1)])
def test_a_probability_at_the_threshold_is_answered(value: float, unknown: int, wrong: int) -> None:
    data = image_files(Path("data"), 4)
    names = [f"test/{'ab'[i % 2]}/{i:03}.png" for i in range(4)]
    answered = judged(names, ["a", "b"], [0, 1, 0, 1], [0, 0, 0, 1], [0.5, 0.6, 0.7, 0.8])
    page = page_of(Gallery(answered, open_album([str(data)], names, "test"), None, Threshold(value, 0.9, True)))
    assert f"Below {value:.3f} the export answers unknown (--reject-coverage 0.9): {4 - unknown} of 4 " in page
    assert f"{unknown} are unknown, of which {wrong} would have been wrong" in page


def test_many_classes_have_their_commonest_mistakes_instead_of_a_matrix() -> None:
    data = image_files(Path("data"), 4)
    names = [f"test/{'ab'[i % 2]}/{i:03}.png" for i in range(4)]
    answered = judged(names, [f"c{i}" for i in range(31)], [0, 1, 1, 3], [2, 2, 2, 3], [0.5, 0.6, 0.7, 0.8])
    page = page_of(Gallery(answered, open_album([str(data)], names, "test")))
    assert "<h2>Confusion matrix" not in page
    assert re.findall(r"<h3>(c\d+ taken for c\d+: \d) images", page) == ["c1 taken for c2: 2", "c0 taken for c2: 1"]


def test_without_test_images_validation_judges_and_the_page_says_that_it_chose(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    for folder in ("export", "bench"):
        shutil.rmtree(run / folder)
    (run / "test.npz").unlink()
    content = read_json(run / "run.json")
    content["sets"]["n_test"], content["test"] = 0, None
    content["files"].pop("test.npz")
    write_json(run / "run.json", content)
    page = write_report(run).read_text(encoding="utf-8")
    assert "on 80 validation images, which also chose alpha and beta (there is no test split)" in page
    assert captions(page, "Most confident mistakes")[0][1].startswith("val/")
    assert "not exported yet" in page


def ledger_of(labels: list[int], **stages: list[int]) -> Ledger:
    probs = {stage: np.eye(3)[answers] for stage, answers in stages.items()}
    return make_ledger(probs, [str(i) for i in range(len(labels))], np.array(labels), "some")  # type: ignore[arg-type]


def test_what_was_lost_since_training_is_the_shipped_file_against_the_student() -> None:
    right, wrong = [0] * 40, [1] * 40
    kept = ledger_of(right, teacher=right, trained=wrong[:10] + right[10:], onnx_fp32=right, onnx_fp16=right)
    sentence, number, worse = lost_since_training(kept, "fp16")
    assert (sentence, number.value, worse) == ("nothing lost since training", "+25.0", False)
    few = ledger_of(right, trained=right, onnx_fp32=right, onnx_fp16=wrong[:5] + right[5:])
    assert lost_since_training(few, "fp16")[0] == "12.5 points lost since training, which may be chance"
    assert lost_since_training(few, "fp32")[1].value == "0"
    many = ledger_of(right, trained=right, onnx_fp16=wrong[:6] + right[6:])
    assert lost_since_training(many, "fp16")[::2] == ("15.0 points lost since training, beyond chance", True)
    assert "not known" in lost_since_training(many, "int8")[0]


def test_answers_of_other_classes_are_not_taken() -> None:
    answers = {"x": Answer("a", "b", 0.5), "y": Answer("b", "b", 0.25)}
    found = judged_by_file(answers, ["b", "a"], "m")
    assert found is not None
    assert (found.labels.tolist(), found.answers.tolist(), found.sure.tolist()) == ([1, 0], [0, 0], [0.5, 0.25])
    assert judged_by_file(answers, ["a", "c"], "m") is None
    assert judged_by_file({}, ["a", "b"], "m") is None


def test_a_bench_page_ships_the_fastest_that_is_not_worse_with_its_own_pictures(own_line: Path) -> None:
    (folder,) = (own_line / "runs/tiny/bench").iterdir()
    page = write_report(folder).read_text(encoding="utf-8")
    answers = read_predictions(folder / "predictions.csv")["fp32", "onnxruntime"]
    right = [(name, a) for name, a in answers.items() if a.label == a.predicted]
    start = page[page.index('<div class="verdict">') : page.index("<section")]
    assert f"Ship fp32 (model.onnx): {100 * len(right) / 48:.1f} % (" in start
    assert " ms per image on " in start
    assert len(re.findall("<dt>", start)) == 3
    least = sorted(right, key=lambda answer: answer[1].probability)[:16]
    assert captions(page, "Least confident right answers") == [(said_of(answer), name) for name, answer in least]
    assert "the answer would be unknown below" in page
    assert page.index("<h2>Confusion matrix") < page.index("<h2>Latency, throughput")


def test_a_bench_from_a_board_shows_everything_but_pictures(tmp_path: Path) -> None:
    example(tmp_path, "jetson", batches=(1, 8))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "No pictures: the images are not on this machine (/data/shop)." in page
    assert uris(page) == []
    assert "Ship fp32 (model.fp32.onnx): " in page or "Ship fp16" in page
    assert "per image on NVIDIA Jetson AGX Orin Developer Kit" in page


def with_accuracy(bench: Bench, **correct: int) -> Bench:
    """The bench with so many of 100 images right by each model."""
    rows = []
    for row in bench.accuracy.rows:
        n, few = 100, correct[row.model]
        changed = {"n": n, "correct": few, "accuracy": few / n, "interval": wilson_interval(few, n)}
        paired = row.reference and replace(row.reference, gained=0, lost=0, mcnemar_p=1.0)
        rows.append(replace(row, **changed, reference=paired))
    return replace(bench, accuracy=replace(bench.accuracy, rows=rows))


def test_the_model_that_ships(tmp_path: Path) -> None:
    bench = example(
        tmp_path, "jetson", models=("fp32", "fp16", "int8"), batches=(1,)
    )  # each faster than the one before

    def ships(bench: Bench) -> str:
        best = best_of(bench)
        return best.model if best else ""

    assert ships(with_accuracy(bench, fp32=90, fp16=90, int8=90)) == "int8"
    lossy = with_accuracy(bench, fp32=90, fp16=90, int8=84)
    first, second, third = lossy.accuracy.rows
    assert third.reference is not None

    def paired(lost: int, p: float) -> Bench:
        row = replace(third, reference=replace(third.reference, lost=lost, mcnemar_p=p))
        return replace(lossy, accuracy=replace(lossy.accuracy, rows=[first, second, row]))

    assert ships(paired(6, 0.05)) == "int8"
    assert ships(paired(6, 0.0499)) == "fp16"
    assert ships(replace(bench, golden=[replace(row, passed=row.model == "fp32") for row in bench.golden])) == "fp32"
    failed = replace(bench, golden=[replace(row, passed=False) for row in bench.golden])
    assert bench_verdict(failed).sentence == "Do not ship: fp32 fails its golden check here."
    untimed = replace(bench, latency=[], comparisons=[])
    assert "no time" in bench_verdict(untimed).sentence
    no_answers = replace(bench, accuracy=replace(bench.accuracy, rows=[], note="not run: no test split at x."))
    assert bench_verdict(no_answers).sentence.endswith("not run: no test split at x.")


@pytest.mark.slow
def test_export_and_bench_draw_the_page_of_their_run_again(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own_line / "runs/tiny"
    shutil.rmtree(run / "export")
    shutil.rmtree(run / "bench")
    write_report(run)
    assert "ONNX fp32" not in (run / "report.html").read_text(encoding="utf-8")
    main_ends("export", str(run), "--gallery", "2")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Ship model.onnx" in page
    assert "not timed yet" in page
    assert len(captions(page, "Least confident right answers")) == 2
    main_ends("bench", str(run / "export"), "--device", "cpu", "--duration", "0.05", "--energy", "0", "--batch", "1")
    said = capsys.readouterr().out
    assert f"Report: {run / 'report.html'}" in said
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<td" in page[page.index("ONNX fp32") :]
    assert "not timed yet" not in page
    assert "Ship model.onnx: " in said
    assert "Ship fp32 (model.onnx): " in said


def main_ends(*arguments: str, code: str = "0") -> None:
    with pytest.raises(SystemExit, match=code):
        main(list(arguments))


@pytest.mark.parametrize(
    "words",
    [
        ("distill", "data", "--gallery", "1", "--dry-run"),
        ("distill", "data", "--gallery", "1", "--method", "dho,ce"),
        ("export", "RUN", "--gallery", "1", "--out", "elsewhere"),
        ("export", "RUN/export", "--gallery", "1", "--emit", "triton"),
        ("report", "RUN", "--gallery", "-1"),
    ],
)
def test_a_gallery_that_no_page_would_have_is_refused(line: Path, words: tuple[str, ...]) -> None:
    shutil.copytree(line / "data", "data")
    main_ends(*(word.replace("RUN", str(line / "runs/tiny")) for word in words), code="2")
