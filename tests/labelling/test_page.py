"""The page of `dhox label` in Debian's chromium: by keyboard, by touch at 400 px, the grid, new classes, two tabs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from label_pile import CLASSES, write_pile
from serving import CHROMIUM, Server, serving, started

from dhox.labelling.log import replay

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
COUNT = 40
Opened = Callable[..., AbstractContextManager["Page"]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def expected_errors() -> list[str]:
    """What a test adds here may stand on the browser's console."""
    return []


@pytest.fixture
def opened(browser: Browser, expected_errors: list[str]) -> Opened:
    """Opens the page of a server; nothing may stand on its console, and it may ask no other server."""

    @contextmanager
    def open_page(server: Server, **options: object) -> Iterator[Page]:
        context = browser.new_context(**{"viewport": {"width": 1000, "height": 800}, **options})  # type: ignore[arg-type]
        page, found, asked = context.new_page(), [], []
        page.on("console", lambda message: found.append(message.text))
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.url)
        page.locator("#picture img").wait_for()
        yield page
        context.close()
        assert [text for text in found if not any(known in text for known in expected_errors)] == []
        assert {url for url in asked if not url.startswith(("blob:", f"http://127.0.0.1:{server.port}/"))} == set()

    return open_page


@pytest.fixture
def truth(tmp_path: Path) -> list[str]:
    """Labels of the images in pile/."""
    return write_pile(tmp_path / "pile", COUNT)


@pytest.fixture
def server(truth: list[str]) -> Iterator[Server]:
    with serving("pile", "--suggestions", "pile/suggestions.csv", command="label") as server:
        yield server


def number(page: Page) -> int:
    """Which image is shown."""
    return int(re.findall(r"\d+", page.locator("#name").inner_text())[0])


def after(page: Page, act: Callable[[], object]) -> None:
    """Do what leads to another image, and wait until that is shown."""
    before = page.locator("#name").inner_text()
    act()
    page.wait_for_function(
        "before => document.querySelector('#name').textContent !== before || !document.querySelector('#finished').hidden",
        arg=before,
    )
    page.wait_for_function("() => document.body.getAttribute('aria-busy') !== 'true'")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        after(page, lambda key=key: page.keyboard.press(key))  # type: ignore[misc]


def logged() -> dict[str, str]:
    """Labels as the log has them now: what the page says is on disk."""
    path = Path("labels.jsonl")
    return replay(path, path.read_bytes())[1].labels()


def table() -> dict[str, str]:
    with open("labels.csv", newline="") as file:
        return {row["name"]: row["label"] for row in csv.DictReader(file)}


def name_of(image: int) -> str:
    return f"unlabelled/{image:03d}.png"


def right_key(page: Page, truth: list[str]) -> str:
    """The key of the true class of the image that is shown: a guess, space for the first one."""
    guesses = page.locator("#guesses strong").all_inner_texts()
    position = guesses.index(truth[number(page)])
    return "Space" if position == 0 else str(position + 1)


def test_forty_images_by_keyboard_alone(truth: list[str], opened: Opened) -> None:
    server = started("pile", "--suggestions", "pile/suggestions.csv", command="label")
    with opened(server) as page:
        assert page.locator("#done").inner_text() == f"0 of {COUNT} done"
        expected = {}
        for image in range(COUNT):
            assert number(page) == image
            expected[name_of(image)] = truth[image]
            if image == 10:  # the class by its number in the list
                keys = page.locator("#classes kbd").all_inner_texts()
                press(page, keys[page.locator("#classes .label").all_inner_texts().index(truth[image])])
            elif image == 20:  # found by typing
                page.keyboard.press("/")
                page.keyboard.type(truth[image][:3])
                assert page.locator("#classes .found .label").inner_text() == truth[image]
                press(page, "Enter")
            elif image in {15, 16, 17}:
                press(page, {15: "s", 16: "n", 17: "b"}[image])
                del expected[name_of(image)]
            else:
                press(page, right_key(page, truth))
            assert logged() == expected
        assert number(page) == 15
        assert page.locator("#again").is_visible()
        assert page.locator("#done").inner_text() == f"{COUNT - 1} of {COUNT} done, 1 skipped"
        assert re.fullmatch(r"\d+ images per minute", page.locator("#rate").inner_text())
        press(page, right_key(page, truth))
        assert page.locator("#finished").is_visible()
        assert page.locator("#finished-text").inner_text() == "38 labels, 1 none of these, 1 bad image."
        press(page, "u")
        assert number(page) == 15
        press(page, "u")
        assert number(page) == COUNT - 1
        press(page, right_key(page, truth))
        press(page, right_key(page, truth))
        expected[name_of(15)] = truth[15]
        assert page.locator("#command").inner_text() == "dhox distill pile --labels labels.csv"
        assert logged() == expected
        page.get_by_role("button", name="End dhox label").click()
        page.locator("#note", has_text="Ended").wait_for()
        out, error = server.process.communicate(timeout=60)
    assert (server.process.returncode, error) == (0, "")
    assert "labels.csv: 38 labels." in out
    assert table() == expected


def test_a_phone_by_touch(server: Server, truth: list[str], opened: Opened) -> None:
    with opened(server, viewport={"width": 400, "height": 800}, has_touch=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        for selector in (".guess >> nth=2", "#undo", "#none"):  # all that one image needs, without scrolling
            box = page.locator(selector).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= 800
            assert box["height"] >= 43
        for image in range(8):
            if image == 3:
                after(page, page.locator("#skip").tap)
            elif image == 4:
                after(page, page.locator("#classes button", has_text=truth[image]).tap)
            else:
                after(page, page.locator(".guess", has_text=truth[image]).first.tap)
        after(page, page.locator("#undo").tap)
        assert number(page) == 7
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        page.locator("#mode").tap()
        page.locator(".tile img").first.wait_for()
        page.locator(".tile").nth(1).tap()
        assert page.locator(".tile").nth(1).get_attribute("aria-pressed") == "true"
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert logged() == {name_of(image): truth[image] for image in (0, 1, 2, 4, 5, 6)}


def test_a_class_whose_name_the_teacher_does_not_know_is_shown(server: Server, opened: Opened) -> None:
    guesses = [row["guess1"] for _, row in suggested()][:6]
    label = min(CLASSES, key=guesses.count)
    assert 3 * guesses[:5].count(label) < 5
    with opened(server) as page:
        row = page.locator("#classes button").nth(page.locator("#classes .label").all_inner_texts().index(label))
        for answered in range(1, 6):
            assert not page.locator("#doubtful").is_visible()
            after(page, row.click)
            right = guesses[:answered].count(label)
            assert row.locator(".teacher").inner_text() == f"teacher {right} of {answered}"
        assert f"hardly ever guesses {label}:" in page.locator("#doubtful").inner_text()
        assert "doubtful" in str(row.get_attribute("class"))


def test_the_grid(server: Server, truth: list[str], opened: Opened) -> None:
    guessed = {path.name: row["guess1"] for path, row in suggested()}
    with opened(server) as page:
        page.keyboard.press("g")
        page.locator(".tile img").first.wait_for()
        label = page.locator("#which").input_value()
        most = max(CLASSES, key=lambda name: [*guessed.values()].count(name))
        assert label == most
        tiles = [tile.get_attribute("aria-label") or "" for tile in page.locator(".tile").all()]
        assert [Path(tile).name for tile in tiles] == sorted(name for name, guess in guessed.items() if guess == label)
        wrong = [tile for tile in tiles if truth[int(Path(tile).stem)] != label]
        assert wrong
        columns = page.locator("#tiles").evaluate(
            "tiles => getComputedStyle(tiles).gridTemplateColumns.split(' ').length"
        )
        at = 0
        for position in sorted(tiles.index(tile) for tile in wrong):  # arrows move, space takes away
            for key, count in (("ArrowDown", (position - at) // columns), ("ArrowRight", (position - at) % columns)):
                for _ in range(count):
                    page.keyboard.press(key)
            at = position
            page.keyboard.press("Space")
        assert page.locator("#confirm").inner_text().endswith(f"The other {len(tiles) - len(wrong)} are {label}")
        page.keyboard.press("Enter")
        page.locator(
            "#note", has_text=f"Saved: {len(tiles) - len(wrong)} images {label}, {len(wrong)} taken away"
        ).wait_for()
        kept = {tile: label for tile in tiles if tile not in wrong}
        assert logged() == kept
        assert len(Path("labels.jsonl").read_text().splitlines()) == 2
        assert page.locator("#which").input_value() != label
        page.keyboard.press("u")
        page.locator("#note", has_text=f"Taken back: {len(tiles)} images").wait_for()
        assert logged() == {}
        page.locator("#classes button", has_text=label).click()
        page.locator("#confirm", has_text=f"All {len(tiles)} are {label}").wait_for()
        page.keyboard.press("g")
        page.locator("#single").wait_for()
        assert number(page) == 0


def suggested() -> list[tuple[Path, dict[str, str]]]:
    with open("pile/suggestions.csv", newline="") as file:
        return [(Path(row["path"]), row) for row in csv.DictReader(file)]


def test_a_new_class_is_asked_for_once_and_checked(server: Server, opened: Opened, expected_errors: list[str]) -> None:
    expected_errors.append("status of 422")
    with opened(server) as page:
        page.keyboard.press("+")
        page.keyboard.type("BAG")
        page.keyboard.press("Enter")
        page.locator("#adding-problem", has_text="bag is a class already").wait_for()
        page.locator("#adding-name").fill("<img src=x onerror=document.title='taken'>\\")
        page.keyboard.press("Enter")
        page.locator("#adding-problem", has_text="Leave out").wait_for()
        assert logged() == {}
        page.locator("#adding-name").fill("<b>hat")
        after(page, lambda: page.keyboard.press("Enter"))
        assert logged() == {name_of(0): "<b>hat"}
        assert page.locator("#classes .label").all_inner_texts() == [*CLASSES, "<b>hat"]
        page.keyboard.press("/")
        page.keyboard.type("scarf")
        page.locator("#no-class", has_text="Enter makes it one").wait_for()
        page.keyboard.press("Enter")
        assert page.locator("#adding-name").input_value() == "scarf"
        after(page, lambda: page.keyboard.press("Enter"))
        press(page, "8", "9")
        assert [*logged().values()] == ["<b>hat", "scarf", "<b>hat", "scarf"]
        page.keyboard.press("+")
        page.keyboard.press("Escape")
        page.locator("#adding").wait_for(state="hidden")
        press(page, "Space")
        assert page.title().endswith("dhox label")


def test_two_tabs_do_not_overwrite_each_other(
    server: Server, truth: list[str], opened: Opened, expected_errors: list[str]
) -> None:
    expected_errors.append("status of 409")
    with opened(server) as one, opened(server) as two:
        assert (number(one), number(two)) == (0, 5)
        body = {"tab": "x", "images": [{"number": 5, "revision": 0}], "answer": "label", "label": "sandal"}
        assert server.request("POST", "/answer", json.dumps(body).encode())[0] == 200
        two.keyboard.press("Space")
        two.locator("#problem", has_text="unlabelled/005.png was answered elsewhere: sandal").wait_for()
        two.wait_for_function("() => document.querySelector('#name').textContent.includes('006')")
        press(two, "Space")
        press(one, "Space", "u", "Space")
        assert two.locator("#problem").is_hidden()
        assert (one.locator("#done").inner_text(), number(two)) == (f"3 of {COUNT} done", 7)
    assert [logged()[name_of(image)] for image in (5, 6, 0)] == ["sandal", truth[6], truth[0]]


def test_a_held_key_answers_once_and_a_focused_button_is_its_own(server: Server, opened: Opened) -> None:
    with opened(server) as page:
        page.keyboard.down("Space")
        page.wait_for_function("() => document.querySelector('#name').textContent.includes('001')")
        for _ in range(5):
            page.keyboard.down("Space")  # what a keyboard repeats
        page.keyboard.up("Space")
        assert number(page) == 1
        page.keyboard.press("Control+s")
        page.locator("#none").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "bad"
        press(page, "Space")
        assert page.evaluate("document.activeElement.tagName") == "BODY"
        assert len(logged()) == 1
        assert page.locator("#done").inner_text() == f"2 of {COUNT} done"


def test_an_answer_that_did_not_reach_the_disk_is_not_said_to_be_saved(
    truth: list[str], opened: Opened, expected_errors: list[str]
) -> None:
    expected_errors.append("net::ERR_CONNECTION_REFUSED")
    server = started("pile", "--suggestions", "pile/suggestions.csv", command="label")
    with opened(server) as page:
        press(page, "Space")
        server.process.kill()
        server.process.communicate()
        page.keyboard.press("Space")
        page.locator("#problem", has_text="does not answer").wait_for()
        assert number(page) == 1
        assert page.locator("#done").inner_text() == f"1 of {COUNT} done"
    assert logged() == {name_of(0): truth[0]}


def test_images_that_vanish_or_cannot_be_read(server: Server, opened: Opened, expected_errors: list[str]) -> None:
    expected_errors += ["status of 410", "status of 422"]
    with opened(server) as page:
        Path("pile/unlabelled/006.png").unlink()
        Path("pile/unlabelled/007.png").write_bytes(b"no image")
        notes = []
        for _ in range(6):
            press(page, "Space")
            notes.append(page.locator("#note").inner_text())
        assert sum("unlabelled/006.png is not there any more" in text for text in notes) == 1
        page.locator("#picture .error", has_text="not an image").wait_for()
        assert number(page) == 7
        assert page.locator("#done").inner_text() == f"6 of {COUNT - 1} done, 1 not there any more"
        press(page, "b")
        assert number(page) == 8
        page.locator("#picture img").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system(server: Server, opened: Opened, scheme: str) -> None:
    with opened(server, color_scheme=scheme) as page:
        colours = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colours)[:3])) > 380) is (scheme == "light")
        for selector in ("#guesses strong", "#classes .label", "#done"):
            ink = page.locator(selector).first.evaluate("one => getComputedStyle(one).color")
            assert (
                abs(sum(map(int, re.findall(r"\d+", ink)[:3])) - sum(map(int, re.findall(r"\d+", colours)[:3]))) > 380
            )


def test_a_wrong_token_shows_nothing(server: Server, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(server.url.replace("token=", "token=x"))
    assert "dhox label" in page.locator("body").inner_text()
    assert page.locator("img").count() == 0
    page.close()
