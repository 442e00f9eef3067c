"""Write docs/label*.png: the page of `dhox label` in Debian's chromium, with images of the demo.

python scripts/write_label_pictures.py EXPORT    (an export of `dhox demo`: its answers are the guesses)
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import dhox
import dhox.demo
from dhox.artefacts.suggestions import GUESSES, Guess, Suggestion, write_suggestions

DOCS = Path(__file__).parents[1] / "docs"
IMAGES = 120
FILMED, COLUMNS, FRAME = 40, 8, (220, 163)  # answers, frames in a row, pixels of a frame
PHONE, DESKTOP = {"width": 400, "height": 800}, {"width": 1000, "height": 740}


def write_pile(folder: Path, export: str) -> None:
    """FOLDER/photos/unlabelled with images of the demo, and FOLDER/suggestions.csv with the export's answers."""
    model = dhox.load(export, "cpu")
    unlabelled = folder / "photos/unlabelled"
    unlabelled.mkdir(parents=True)
    with np.load(Path(dhox.demo.__file__).parent / "fashion_mnist.npz") as archive:
        files = [unlabelled / f"{number:04d}.png" for number in range(IMAGES)]
        for file, pixels in zip(files, archive["train_images"], strict=False):
            Image.fromarray(pixels).save(file)
    found = []
    for file, probs in zip(files, model(files), strict=True):
        name = f"unlabelled/{file.name}"
        best = np.argsort(-probs)[:GUESSES]
        found.append(Suggestion(name, name, None, tuple(Guess(model.classes[i], float(probs[i])) for i in best)))
    write_suggestions(folder / "suggestions.csv", found)


@contextmanager
def labelling(folder: Path) -> Iterator[str]:
    """The address of `dhox label` there."""
    command = [Path(sys.executable).with_name("dhox"), "label", "photos", "--suggestions", "suggestions.csv"]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=folder) as server:
        assert server.stdout is not None
        try:
            yield next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        finally:
            server.terminate()


def opened(browser: Browser, url: str, **options: Any) -> Page:
    """The page in a context of its own, with its first image."""
    page = browser.new_context(**options).new_page()
    page.goto(url)
    page.locator("#picture img").wait_for()
    return page


def press(page: Page, *keys: str) -> None:
    """Keys at a person's pace, each once the last answer has led to the next image."""
    for key in keys:
        page.wait_for_timeout(900)
        name = page.locator("#name").inner_text()
        page.keyboard.press(key)
        page.wait_for_function("name => document.querySelector('#name').textContent !== name", arg=name)


def film(page: Page) -> None:
    """docs/label-film.png: the page before each of the answers, by keyboard alone, row by row."""
    sheet = Image.new("RGB", (COLUMNS * FRAME[0], -(-FILMED // COLUMNS) * FRAME[1]))
    for number in range(FILMED):
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize(FRAME, Image.Resampling.LANCZOS)
        row, column = divmod(number, COLUMNS)
        sheet.paste(shot, (column * FRAME[0], row * FRAME[1]))
        press(page, "2" if number % 10 == 9 else "Space")
    write(sheet, "label-film.png")


def save(page: Page, name: str) -> None:
    """What the page shows."""
    page.wait_for_timeout(400)
    write(Image.open(io.BytesIO(page.screenshot(full_page=True))), name)


def write(picture: Image.Image, name: str) -> None:
    """A picture of docs/, in 128 colours."""
    picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(DOCS / name, optimize=True)
    print(DOCS / name)


def main(export: str) -> None:
    pictures: list[tuple[str, dict[str, Any], list[str]]] = [
        ("label.png", {"viewport": DESKTOP}, ["Space"] * 12 + ["2", "s", "n"] + ["Space"] * 6),
        ("label-dark.png", {"viewport": DESKTOP, "color_scheme": "dark"}, ["Space"] * 5),
        ("label-narrow.png", {"viewport": PHONE, "has_touch": True}, ["Space"] * 4),
    ]
    with TemporaryDirectory() as folder, sync_playwright() as player:
        write_pile(Path(folder), export)
        write_pile(Path(folder, "again"), export)  # the film begins with no label
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with labelling(Path(folder)) as url:
            for name, options, keys in pictures:
                page = opened(browser, url, **options)
                press(page, *keys)
                save(page, name)
                page.context.close()
            page = opened(browser, url, viewport=DESKTOP)
            page.keyboard.press("g")
            page.locator(".tile img").nth(5).wait_for()
            page.locator(".tile").nth(3).click()
            save(page, "label-grid.png")
        with labelling(Path(folder, "again")) as url:
            page = opened(browser, url, viewport=DESKTOP)
            film(page)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
