"""What the page's server does with answers: order, two tabs, undo, grid, classes, images that vanish."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from label_pile import CLASSES, write_pile
from PIL import Image
from serving import TOKEN
from starlette.testclient import TestClient

from dhox.artefacts.suggestions import Guess, read_suggestions
from dhox.data.dataset import read_dataset
from dhox.labelling.app import make_app
from dhox.labelling.log import LabelLog, open_log
from dhox.labelling.session import Question, Session

COUNT = 10


class Tab:
    """What one tab of a browser sends."""

    def __init__(self, app: Any, name: str) -> None:
        self.client = TestClient(app, base_url="http://127.0.0.1:8000", headers={"Authorization": f"Bearer {TOKEN}"})
        self.name = name

    def get(self, path: str, code: int = 200, **query: object) -> Any:
        return self._read(self.client.get(path, params={"tab": self.name, **query}), code)

    def post(self, path: str, code: int = 200, **content: Any) -> Any:
        return self._read(self.client.post(path, json={"tab": self.name, **content}), code)

    def _read(self, response: Any, code: int) -> Any:
        assert response.status_code == code, response.text
        return response.json() if response.content else None

    def coming(self, ahead: int = 3) -> list[Any]:
        return self.get("/next", ahead=ahead)["coming"]

    def answer(self, images: list[Any], answer: str = "label", code: int = 200, **more: Any) -> Any:
        label = {"label": more.pop("label", "bag")} if answer in {"label", "not"} else {}
        away = [as_seen(one) for one in more.pop("away", [])]
        asked = {"images": [as_seen(one) for one in images], "answer": answer, "taken_away": away, "ahead": 3}
        return self.post("/answer", code, **asked, **label, **more)


def as_seen(image: Any) -> dict[str, int]:
    return {"number": image["number"], "revision": image["revision"]}


def numbers(images: list[Any]) -> list[int]:
    return [one["number"] for one in images]


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    write_pile(tmp_path / "pile", COUNT)
    return tmp_path / "pile"


@pytest.fixture
def log(pile: Path, tmp_path: Path) -> Iterator[LabelLog]:
    with open_log(tmp_path / "labels.jsonl", pile, CLASSES) as log:
        yield log


@pytest.fixture
def session(pile: Path, log: LabelLog) -> Session:
    items = {item.name: item for item in read_dataset(pile)["unlabelled"]}
    questions = [Question(items[one.name], one.guesses) for one in read_suggestions(pile / "suggestions.csv")]
    return Session(log, questions, CLASSES, str(pile), "dhox distill pile")


@pytest.fixture
def app(session: Session) -> Any:
    return make_app(session, Event(), lambda: None, token=TOKEN, names=set())


@pytest.fixture
def tab(app: Any) -> Tab:
    return Tab(app, "one")


def test_images_come_in_order_and_skipped_ones_at_the_end(tab: Tab) -> None:
    assert numbers(tab.coming()) == [0, 1, 2]
    assert numbers(tab.answer(tab.coming()[:1], "skip")["coming"]) == [1, 2, 3]
    for answer in ("none", "bad", "label", "label", "label", "label", "label"):
        said = tab.answer(tab.coming()[:1], answer)
    assert numbers(said["coming"]) == [8, 9, 0]
    assert [one["again"] for one in said["coming"]] == [False, False, True]
    assert {name: said[name] for name in ("total", "done", "labelled", "none", "bad", "skipped", "gone")} == {
        "total": 10, "done": 7, "labelled": 5, "none": 1, "bad": 1, "skipped": 1, "gone": 0
    }  # fmt: skip
    for one in (8, 9):
        assert tab.coming()[0]["number"] == one
        tab.answer(tab.coming()[:1])
    assert numbers(tab.answer(tab.coming()[:1], "skip")["coming"]) == [0]
    assert tab.answer(tab.coming()[:1])["coming"] == []


def test_two_tabs_get_other_images_and_do_not_overwrite_each_other(app: Any, tab: Tab, log: LabelLog) -> None:
    other = Tab(app, "two")
    mine, theirs = tab.coming(), other.coming()
    assert (numbers(mine), numbers(theirs)) == ([0, 1, 2], [3, 4, 5])
    tab.answer(mine[:1], label="dress")
    refusal = other.answer(mine[:1], label="bag", code=409)
    assert "unlabelled/000.png was answered elsewhere: dress" in refusal["error"]
    assert log.state.labels() == {"unlabelled/000.png": "dress"}
    other.answer([theirs[0], mine[0]], label="bag", code=409)
    assert log.state.labels() == {"unlabelled/000.png": "dress"}
    tab.post("/leave", 204)
    assert numbers(other.coming(8)) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_tab_takes_back_its_own_answers_alone(app: Any, tab: Tab, log: LabelLog) -> None:
    other = Tab(app, "two")
    theirs = other.coming()[:1]
    tab.answer(tab.coming()[:1])
    mine = tab.coming()[:1]
    tab.answer(mine, "skip")
    other.answer(theirs, label="dress")
    said = tab.post("/undo", ahead=3)
    assert (said["taken_back"], said["coming"][0]["number"], said["coming"][0]["again"]) == (
        1,
        mine[0]["number"],
        False,
    )
    tab.answer(mine, code=409)  # what it saw before the undo
    tab.post("/undo", ahead=1)
    assert "nothing" in tab.post("/undo", code=409)["error"]
    assert log.state.labels() == {f"unlabelled/{theirs[0]['number']:03d}.png": "dress"}


def test_what_an_earlier_session_answered_can_be_taken_back(tab: Tab, session: Session) -> None:
    tab.answer(tab.coming()[:1])
    again = Session(session.log, session.questions, CLASSES, "", "")
    later = Tab(make_app(again, Event(), lambda: None, token=TOKEN, names=set()), "later")
    assert later.coming()[0]["number"] == 1
    assert later.post("/undo", ahead=3)["coming"][0]["number"] == 0


def test_the_grid_confirms_the_rest_in_one_line_of_the_log(tab: Tab, log: LabelLog) -> None:
    label = read_guess(tab)
    found = tab.get("/grid", label=label, count=50)
    assert found["all"] == len(found["images"]) >= 3
    assert {one["guesses"][0]["label"] for one in found["images"]} == {label}
    wrong, right = found["images"][1], [found["images"][0], *found["images"][2:]]
    said = tab.answer(right, label=label, away=[wrong])
    assert len(log.state.answers()) == 1
    assert said["labelled"] == len(right)
    assert tab.get("/grid", label=label, count=50) == {"label": label, "all": 0, "images": []}
    assert wrong["number"] in numbers(tab.coming(10))
    assert not {*numbers(right)} & {*numbers(tab.coming(10))}
    back = tab.post("/undo", ahead=0)
    assert back["taken_back"] == len(found["images"])
    assert numbers(tab.get("/grid", label=label, count=50)["images"]) == numbers(found["images"])
    assert next(one["guessed"] for one in back["classes"] if one["label"] == label) == found["all"]


def test_a_grid_of_wrong_ones_alone(tab: Tab, log: LabelLog) -> None:
    label = read_guess(tab)
    found = tab.get("/grid", label=label, count=2)["images"]
    tab.answer(found, "not", label=label)
    assert not {*numbers(found)} & {*numbers(tab.get("/grid", label=label, count=50)["images"])}
    assert log.state.labels() == {}
    assert tab.get("/state")["done"] == 0


def read_guess(tab: Tab) -> str:
    """The class that most first guesses name."""
    return max(tab.get("/state")["classes"], key=lambda one: one["guessed"])["label"]


def test_first_guesses_are_held_against_the_labels(tab: Tab, session: Session) -> None:
    def row(label: str) -> tuple[int, int, int, bool]:
        one = next(one for one in tab.get("/state")["classes"] if one["label"] == label)
        return one["count"], one["judged"], one["right"], one["not_understood"]

    first = [question.guesses[0].label for question in session.questions]
    images = {one["number"]: one for one in tab.coming(COUNT)}
    wanted = [number for number, label in enumerate(first) if label != "dress"]
    rest = [number for number in images if number not in wanted]
    for number in wanted[:4]:
        tab.answer([images[number]], label="dress")
    assert row("dress") == (4, 4, 0, False)
    tab.answer([images[wanted[4]]], label="dress")
    assert row("dress") == (5, 5, 0, True)
    tab.answer([images[rest[3]]], "none")
    assert row("dress") == (5, 5, 0, True)
    for number in rest[:1]:
        tab.answer([images[number]], label="dress")
    assert row("dress") == (6, 6, 1, True)
    tab.answer([images[rest[1]]], label="dress")
    assert row("dress") == (7, 7, 2, True)
    tab.answer([images[rest[2]]], label="dress")
    assert row("dress") == (8, 8, 3, False)
    tab.post("/undo", ahead=0)
    tab.post("/undo", ahead=0)
    tab.post("/undo", ahead=0)
    tab.post("/undo", ahead=0)
    assert row("dress") == (5, 5, 0, True)
    tab.post("/undo", ahead=0)
    assert row("dress") == (4, 4, 0, False)
    assert row("bag") == (0, 0, 0, False)


def test_a_third_of_right_guesses_is_enough(pile: Path, log: LabelLog) -> None:
    items = read_dataset(pile)["unlabelled"]
    questions = [
        Question(item, () if number > 5 else (Guess("bag" if number < 2 else "dress", 0.9),))
        for number, item in enumerate(items)
    ]
    tab = Tab(
        make_app(Session(log, questions, CLASSES, "", ""), Event(), lambda: None, token=TOKEN, names=set()), "one"
    )
    tab.answer(tab.coming(COUNT), label="bag")
    (one,) = [one for one in tab.get("/state")["classes"] if one["label"] == "bag"]
    assert (one["count"], one["judged"], one["right"], one["not_understood"]) == (10, 6, 2, False)


def test_keys_are_numbered_behind_the_guesses_and_stay(tab: Tab, log: LabelLog) -> None:
    keys = {one["label"]: one["key"] for one in tab.get("/state")["classes"]}
    assert keys == {"bag": 4, "dress": 5, "sandal": 6, "trousers": 7}
    tab.answer(tab.coming()[:1], label="trousers")
    tab.post("/class", name="hat")
    after = {one["label"]: one["key"] for one in tab.get("/state")["classes"]}
    assert after == {**keys, "hat": 8}
    for number in range(3):
        tab.post("/class", name=f"more {number}")
    assert [one["key"] for one in tab.get("/state")["classes"]][-3:] == [9, None, None]
    assert log.state.added == ["hat", "more 0", "more 1", "more 2"]


@pytest.mark.parametrize(
    ("name", "word"),
    [("", "name"), ("  ", "name"), ("a\nb", "nobody sees"), ("a\u200bb", "nobody sees"), ("x" * 101, "101"), ("Bag", "bag"), ("SANDAL ", "sandal"),
     ("ｂａｇ", "bag"), ("a/b", "folder"), ("..", "folder"), ("\ud800", "")],
)  # fmt: skip
def test_names_that_cannot_be_a_class(tab: Tab, log: LabelLog, name: str, word: str) -> None:
    content = b'{"name":"\\ud800"}' if name == "\ud800" else None
    if content:
        assert tab.client.post("/class", content=content).status_code == 400
    else:
        assert word in tab.post("/class", code=422, name=name)["error"]
    assert log.state.added == []


def test_a_new_class_is_a_label_at_once_and_after_a_restart(tab: Tab, session: Session) -> None:
    tab.answer(tab.coming()[:1], label="été_2", code=422)
    assert tab.post("/class", name=" e\u0301te\u0301_2 ")["added"] == "été_2"
    tab.answer(tab.coming()[:1], label="été_2")
    assert "bag" in tab.post("/class", name="BAG", code=422)["error"]
    assert "été_2" in tab.post("/class", name="Été 2", code=422)["error"]
    assert Session(session.log, session.questions, CLASSES, "", "").classes == [*CLASSES, "été_2"]


def test_images_are_small_jpegs_by_number(tab: Tab, pile: Path) -> None:
    Image.new("RGB", (3000, 1500), (200, 30, 30)).save(pile / "unlabelled/000.png")
    for large, side in ((0, 256), (1, 1024)):
        response = tab.client.get("/image", params={"number": 0, "large": large})
        assert response.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(response.content)) as image:
            assert (image.format, image.size) == ("JPEG", (side, side // 2))
            red, green, _ = image.getpixel((10, 10))  # type: ignore[misc]
            assert red > 190 > 40 > green
    for query in (
        {"number": 10, "large": 0},
        {"number": -1, "large": 0},
        {"number": "../x", "large": 0},
        {"number": 0},
    ):
        assert tab.client.get("/image", params=query).status_code in {400, 404}  # type: ignore[arg-type]


def test_an_image_that_was_deleted_is_said_counted_and_left_out(tab: Tab, pile: Path) -> None:
    (pile / "unlabelled/001.png").unlink()
    refusal = tab.get("/image", code=410, number=1, large=1)
    assert "unlabelled/001.png is not there any more" in refusal["error"]
    said = tab.get("/next", ahead=3)
    assert (numbers(said["coming"]), said["total"], said["gone"]) == ([0, 2, 3], COUNT - 1, 1)


def test_an_image_that_cannot_be_read_waits_for_an_answer(tab: Tab, pile: Path) -> None:
    (pile / "unlabelled/000.png").write_bytes(b"no image")
    assert "not an image" in tab.get("/image", code=422, number=0, large=1)["error"]
    assert tab.coming()[0]["number"] == 0
    assert tab.answer(tab.coming()[:1], "bad")["bad"] == 1


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"\xff", b'{"tab":"a"}', b'{"tab":"a","images":[],"answer":"skip"}',
        b'{"tab":"a","images":[{"number":0,"revision":0}],"answer":"label"}',
        b'{"tab":"a","images":[{"number":0,"revision":0}],"answer":"skip","label":"bag"}',
        b'{"tab":"a","images":[{"number":0,"revision":0}],"answer":"skip","taken_away":[{"number":1,"revision":0}]}',
        b'{"tab":"a","images":[{"number":0,"revision":0},{"number":0,"revision":0}],"answer":"skip"}',
        b'{"tab":"a","images":[{"number":0,"revision":0}],"answer":"maybe"}', b"x" * 1_000_001, b"[" * 100_000,
    ],
)  # fmt: skip
def test_requests_that_make_no_sense_change_nothing(tab: Tab, log: LabelLog, content: bytes) -> None:
    response = tab.client.post("/answer", content=content)
    assert response.status_code in {400, 413}
    assert response.json()["fix"]
    assert log.state.line == 1


def test_who_has_no_token_sees_nothing(app: Any, tab: Tab) -> None:
    client = TestClient(app, base_url="http://127.0.0.1:8000")
    for path in (
        "/",
        "/state",
        "/next?tab=a&ahead=1",
        "/image?number=0&large=0",
        "/grid?tab=a&label=bag&count=1",
        "/other",
    ):
        response = client.get(path)
        assert response.status_code == 401
        assert "bag" not in response.text
        assert "dhox label" in response.text
    for path in ("/answer", "/undo", "/class", "/leave", "/end"):
        assert client.post(path, json={}).status_code == 401
    assert client.get("/page.js").status_code == 200
    assert tab.client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert tab.client.post("/undo", headers={"Origin": "http://evil.example"}).status_code == 403
    policy = tab.client.get("/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_page_asks_for_files_that_are_served(tab: Tab) -> None:
    page = tab.client.get("/").text
    files = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert {*files} == {"icon.svg", "base.css", "page.css", "page.js"}
    assert all(tab.client.get(f"/{name}").status_code == 200 for name in files)
    assert "style=" not in page
