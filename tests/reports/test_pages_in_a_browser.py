"""Pages as a browser shows them: nothing wider than a phone, captions whole, cells that open by the keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_example import example
from serving import CHROMIUM

from dhox.reports.pages.run import write_report

pytestmark = pytest.mark.browser
NARROW = 400
TOO_WIDE = """
    [...document.querySelectorAll('p, li, figcaption, h1, h2, h3, dt, dd, summary, .scroll, figure, .thumbnail')]
    .filter(one => one.getClientRects().length && !one.closest('table'))
    .filter(one => one.getBoundingClientRect().right > innerWidth + 0.5 || one.getBoundingClientRect().left < -0.5
                   || (one.scrollWidth > one.clientWidth + 1 && !one.matches('.scroll')))
    .map(one => one.outerHTML.slice(0, 120))
"""
CUT_TABLES = """
    [...document.querySelectorAll('.scroll')]
    .filter(one => !one.querySelector('.heat') && one.scrollWidth > one.clientWidth + 1)
    .map(one => one.innerText.slice(0, 80))
"""
SMALL_TEXT = """
    [...document.querySelectorAll('.charts svg text')]
    .map(one => [parseFloat(getComputedStyle(one).fontSize) * one.ownerSVGElement.getBoundingClientRect().width
                 / one.ownerSVGElement.viewBox.baseVal.width, one.textContent])
    .filter(([size]) => size < 10.5)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(line: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a run, of its bench, and of a bench of long names on a board."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(line, folder / "line")
    long = tuple(f"a_rather_long_run_name_of_a_model_{number}/fp16" for number in range(9))
    example(
        folder / "board", "jetson", models=long, batches=(1, 8, 32), classes=[f"class_of_{i}_goods" for i in range(12)]
    )
    (bench,) = (folder / "line/runs/tiny/bench").iterdir()
    found = {"run": folder / "line/runs/tiny", "bench": bench, "board": folder / "board"}
    return {name: write_report(place).absolute() for name, place in found.items()}


@pytest.mark.parametrize("name", ["run", "bench", "board"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(browser: Any, pages: dict[str, Path], name: str, scheme: str) -> None:
    page = browser.new_page(viewport={"width": NARROW, "height": 800}, color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: asked.append(str(error)))
    page.goto(pages[name].as_uri())
    assert page.evaluate("document.scrollingElement.scrollWidth") <= NARROW
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate(CUT_TABLES) == []
    assert page.evaluate(SMALL_TEXT) == []
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]
    page.close()


def test_a_cell_opens_its_images_by_the_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["run"].as_uri())
    links = page.locator(".heat a")
    assert links.count() >= 4
    target = links.first.get_attribute("href")
    opened = page.locator(str(target))
    assert not opened.is_visible()
    links.first.focus()
    page.keyboard.press("Enter")
    assert opened.is_visible()
    assert opened.locator("svg.thumbnail").first.is_visible()
    assert page.locator(".opened:visible").count() == 1
    opened.locator("a.close").focus()
    page.keyboard.press("Enter")
    assert not opened.is_visible()
    page.close()


def test_images_are_really_drawn(browser: Any, pages: dict[str, Path]) -> None:
    """The first thumbnail of the page is not one flat colour."""
    import io

    from PIL import Image

    page = browser.new_page()
    page.goto(pages["run"].as_uri())
    shot = page.locator("svg.thumbnail").first.screenshot()
    low, high = Image.open(io.BytesIO(shot)).convert("L").getextrema()
    assert high - low > 60
    page.close()


def test_print_keeps_the_pictures_and_opens_nothing(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(f"{pages['run'].as_uri()}#cell-0-0")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator(".opened:visible").count() == 0
    assert page.locator("svg.thumbnail:visible").count() > 10
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert len(page.pdf()) > 10_000
    page.close()
