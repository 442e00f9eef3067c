"""The page of `dhox serve` in Debian's chromium: dropped, chosen and pasted images, and a camera fed from a file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from serving import CHROMIUM, Server, encoded, film, serving

import dhox

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

# Files as the pointer brings them: real events with a real DataTransfer.
DROP = """([kinds, files]) => {
    const transfer = new DataTransfer();
    for (const [name, content] of files) {
        const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type: "image/png" }));
    }
    for (const kind of kinds) {
        const event = new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
        if (document.querySelector("#drop").dispatchEvent(event)) throw new Error(`${kind} was not taken`);
    }
}"""
PASTE = """([name, content]) => {
    const transfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
    dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
}"""
MODELS = ("tiny fp32", "tiny fp16")


@pytest.fixture(scope="module")
def export(line: Path) -> Path:
    return line / "runs/tiny/export"


@pytest.fixture(scope="module")
def seen(line: Path, export: Path) -> Path:
    """The test image of which the model is surest: the camera sees it."""
    files = sorted((line / "data/test").rglob("*.png"))
    return files[int(dhox.load(export, "cpu")(files).max(-1).argmax())]


@pytest.fixture(scope="module")
def server(export: Path) -> Iterator[Server]:
    with serving(export, "--device", "cpu", "--precision", "fp32", "--precision", "fp16", "--max-upload", 1) as server:
        yield server


@pytest.fixture(scope="module")
def browser(seen: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    camera = film(tmp_path_factory.mktemp("camera") / "film.mjpeg", Image.open(seen))
    arguments = [
        "--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]  # fmt: skip
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def expected_errors() -> list[str]:
    """What a test adds here may stand on the browser's console."""
    return []


@pytest.fixture
def page(server: Server, browser: Browser, expected_errors: list[str]) -> Iterator[Page]:
    """The page; nothing may stand on its console, and it may ask no other server."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    asked: list[str] = []
    page.goto(server.url)
    page.locator("#models li").nth(1).wait_for()
    yield page
    context.close()
    assert [text for text in found if not any(known in text for known in expected_errors)] == []
    assert {url for url in asked if not url.startswith(("blob:", f"http://127.0.0.1:{server.port}/"))} == set()


def drop(page: Page, *files: tuple[str, bytes]) -> None:
    content = [[name, base64.b64encode(data).decode()] for name, data in files]
    page.evaluate(DROP, [["dragenter", "dragover"], content])
    assert page.locator("#drop.over").count() == 1
    page.evaluate(DROP, [["drop"], content])
    assert page.locator("#drop.over").count() == 0


def result(page: Page, name: str) -> Locator:
    item = page.locator("#results > li", has=page.get_by_role("heading", name=name, exact=True))
    item.wait_for()
    return item


def shown(item: Locator) -> list[tuple[str, str, list[list[str]]]]:
    """(model, label, [[class, percentage]]) of each answer."""
    return [
        (
            answer.locator(".model").inner_text(), answer.locator(".label").inner_text(),
            [row.locator("span").all_inner_texts() for row in answer.locator(".top li").all()],
        ) for answer in item.locator(".answer").all()
    ]  # fmt: skip


def expected(export: Path, image: Path) -> list[tuple[str, str, list[list[str]]]]:
    found = []
    for name, precision in zip(MODELS, ("fp32", "fp16"), strict=True):
        model = dhox.load(export, "cpu", precision)
        probs = model(image)[0]
        top = [[model.classes[i], f"{100 * probs[i]:.1f} %"] for i in np.argsort(-probs, kind="stable")[:3]]
        found.append((name, top[0][0], top))
    return found


def test_dropped_images_are_answered_by_models_side_by_side(page: Page, line: Path, export: Path) -> None:
    files = [next((line / "data/test" / name).iterdir()) for name in ("bag", "sandal", "dress")]
    drop(page, *[(f"{file.parent.name}.png", file.read_bytes()) for file in files])
    for file in files:
        item = result(page, f"{file.parent.name}.png")
        assert shown(item) == expected(export, file)
        for times in item.locator(".times").all_inner_texts():
            assert re.findall(r"(decode|model|all) [\d.]+ ms", times) == ["decode", "model", "all"]
        boxes = [answer.bounding_box() for answer in item.locator(".answer").all()]
        assert boxes[0]["y"] == boxes[1]["y"]  # type: ignore[index]
        assert item.locator("img").evaluate("image => image.naturalWidth") == 28
    assert page.locator("#status").inner_text().startswith("3 images")


def test_names_stay_text(page: Page, line: Path) -> None:
    name = "<img src=x onerror=document.title='taken'>.png"
    drop(page, (name, next((line / "data/test/bag").iterdir()).read_bytes()))
    result(page, name)
    assert page.title() == "dhox serve"
    assert page.locator("h2 img").count() == 0


def test_what_is_no_image_is_named_and_the_rest_goes_on(page: Page, line: Path, expected_errors: list[str]) -> None:
    expected_errors.append("the server responded with a status of 422")
    good = next((line / "data/test/bag").iterdir()).read_bytes()
    drop(page, ("notes.png", b"no image"), ("large.png", good + bytes(1_000_000)), ("good.png", good))
    assert "not an image" in result(page, "notes.png").locator(".error").inner_text()
    assert "1 MB" in result(page, "large.png").locator(".error").inner_text()
    assert result(page, "notes.png").locator(".thumb", has_text="no preview").count() == 1
    assert result(page, "good.png").locator(".answer").count() == 2
    assert "3 images, 2 without an answer" in page.locator("#status").inner_text()


def test_the_keyboard_reaches_everything(page: Page, line: Path) -> None:
    with page.expect_file_chooser() as chooser:  # asked for before the key, since a browser at work answers late
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "files"
        page.keyboard.press("Space")
    chooser.value.set_files(sorted((line / "data/test/bag").iterdir())[:2])
    page.locator("#results > li").nth(1).wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "camera"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#results > li").first.wait_for(state="detached")
    assert page.evaluate("document.activeElement.id") == "files"
    assert page.locator("#status").inner_text() == "No image yet."


def test_a_pasted_image(page: Page, line: Path) -> None:
    file = next((line / "data/test/sandal").iterdir())
    page.evaluate(PASTE, ["clip.png", base64.b64encode(file.read_bytes()).decode()])
    assert result(page, "clip.png").locator(".answer").count() == 2


def test_the_camera(page: Page, server: Server, seen: Path) -> None:
    button = page.get_by_role("button", name="Turn camera on")
    button.click()
    page.locator("#rate", has_text=re.compile(r"[\d.]+ frames/s, there and back [\d.]+ ms, 240 x 240")).wait_for()
    live = page.locator("#live-answers")
    answers = shown(live)
    assert [(model, label) for model, label, _ in answers] == [(model, seen.parent.name) for model in MODELS]
    assert "model" in live.locator(".times").first.inner_text()
    assert page.get_by_role("button", name="Turn camera off").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Turn camera off").click()
    page.locator("#live").wait_for(state="hidden")
    assert page.locator("#video").evaluate("video => video.srcObject") is None
    button.wait_for()


def test_a_camera_that_is_not_there(page: Page) -> None:
    page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotFoundError')); }"
    )
    page.locator("#camera").click()
    assert page.get_by_role("alert").inner_text() == "This machine has no camera."
    assert page.locator("#camera").get_attribute("aria-pressed") == "false"


def test_a_camera_that_vanishes(page: Page) -> None:
    page.locator("#camera").click()
    page.locator("#rate", has_text="frames/s").wait_for()
    page.evaluate("document.querySelector('#video').srcObject.getVideoTracks()[0].dispatchEvent(new Event('ended'))")
    assert page.get_by_role("alert").inner_text() == "The camera has gone."
    page.get_by_role("button", name="Turn camera on").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_scrolling_sideways(page: Page, line: Path, scheme: str) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    drop(page, ("a" * 120 + ".png", next((line / "data/test/bag").iterdir()).read_bytes()))
    page.locator("#results > li").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    light = (
        sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])) > 380
    )
    assert light is (scheme == "light")


def test_a_wrong_token_and_a_server_that_has_ended(export: Path, browser: Browser, line: Path) -> None:
    page = browser.new_page()
    with serving(export, "--device", "cpu") as server:
        page.goto(server.url.replace("token=", "token=x"))
        assert "token" in page.locator("body").inner_text()
        page.goto(server.url)
        page.locator("#models li").wait_for()
    drop(page, ("a.png", encoded(Image.new("RGB", (9, 9)))))
    assert "does not answer" in result(page, "a.png").locator(".error").inner_text()
    page.close()
