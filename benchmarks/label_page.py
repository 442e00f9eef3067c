"""How long `dhox label` takes from a key to the next image on the screen, in a real browser.

python benchmarks/label_page.py [--images 100]

The images are synthetic JPEG files of 4000 x 3000 pixels. An answer is one key; it ends with the frame that shows
the next image, decoded. Once at a person's pace (0.5 s between answers), once as fast as the page takes keys.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from dhox.artefacts.suggestions import Guess, Suggestion, write_suggestions

SIZE = (4000, 3000)
PACE_MS = 500
CLASSES = ("a", "b", "c")
# Press a key, and wait for the frame that shows another image.
ANSWER = """() => new Promise((done) => {
    const picture = document.querySelector("#picture");
    const begin = performance.now();
    new MutationObserver((_, observer) => {
        observer.disconnect();
        requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)));
    }).observe(picture, { childList: true });
    dispatchEvent(new KeyboardEvent("keydown", { key: " " }));
})"""


def write_pile(folder: Path, count: int) -> None:
    """Noise that compresses as photographs do, and suggestions."""
    generator = np.random.default_rng(0)
    unlabelled = folder / "photos/unlabelled"
    unlabelled.mkdir(parents=True)
    guesses = tuple(Guess(name, 0.3) for name in CLASSES)
    found = []
    for number in range(count):
        coarse = generator.integers(0, 256, (SIZE[1] // 20, SIZE[0] // 20, 3), np.uint8)
        name = f"unlabelled/{number:04d}.jpg"
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(folder / "photos" / name, quality=90)
        found.append(Suggestion(name, name, None, guesses))
    write_suggestions(folder / "suggestions.csv", found)


@contextmanager
def labelling(folder: Path) -> Iterator[str]:
    """The address of `dhox label` there."""
    command = [str(Path(sys.executable).with_name("dhox")), "label", "photos", "--suggestions", "suggestions.csv"]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=folder) as server:
        assert server.stdout is not None
        try:
            yield next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        finally:
            server.terminate()


def measure(page: Page, count: int, pause: int) -> np.ndarray:
    """Milliseconds of each of `count` answers."""
    found = []
    for _ in range(count):
        page.wait_for_timeout(pause)
        page.wait_for_function("() => document.body.getAttribute('aria-busy') !== 'true'")
        found.append(page.evaluate(ANSWER))
    return np.array(found)


def main(images: int) -> None:
    with TemporaryDirectory() as folder, sync_playwright() as player:
        write_pile(Path(folder), images)
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with labelling(Path(folder)) as url:
            page = browser.new_page(viewport={"width": 1000, "height": 800})
            page.goto(url)
            page.locator("#picture img").wait_for()
            for what, pause in (("at a person's pace", PACE_MS), ("as fast as it goes", 0)):
                times = measure(page, images // 2 - 2, pause)
                median, most = np.percentile(times, [50, 95], method="inverted_cdf")
                print(f"{what}: median {median:.0f} ms, 95 % within {most:.0f} ms, n = {len(times)}")
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    main(parser.parse_args().images)
