"""Write docs/serve*.png: the page of `dhox serve` in Debian's chromium, with images of the demo.

python scripts/write_serve_pictures.py EXPORT    (an export of `dhox demo` that also holds int8)
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
from playwright.sync_api import FilePayload, Page, sync_playwright

import dhox.demo

DOCS = Path(__file__).parents[1] / "docs"
SHOWN = ("bag", "ankle_boot", "pullover", "shirt", "sandal")
CAMERA_SIZE = (320, 240)


def demo_images() -> list[tuple[str, Image.Image]]:
    """(file name, image) of the first test image of each class in SHOWN."""
    with np.load(Path(dhox.demo.__file__).parent / "fashion_mnist.npz") as archive:
        names, labels = archive["classes"].tolist(), archive["test_labels"]
        rows = {name: int(np.flatnonzero(labels == names.index(name))[3]) for name in SHOWN}
        return [(f"{name}.png", Image.fromarray(archive["test_images"][row])) for name, row in rows.items()]


def encoded(image: Image.Image, kind: str) -> bytes:
    """An image as a file."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def camera_file(path: Path, image: Image.Image) -> Path:
    """A film for Chromium's fake camera: an image on black, again and again (MJPEG: one JPEG after the other)."""
    frame = Image.new("RGB", CAMERA_SIZE)
    side = min(CAMERA_SIZE)
    frame.paste(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC), ((CAMERA_SIZE[0] - side) // 2, 0))
    path.write_bytes(encoded(frame, "JPEG") * 10)
    return path


def photograph(page: Page, url: str, images: list[tuple[str, Image.Image]], file: Path, camera: bool) -> None:
    """Open the page, give it the images, and save what it shows, in 128 colours."""
    page.goto(url)
    page.wait_for_load_state("networkidle")
    page.locator("#files").set_input_files(
        [FilePayload(name=name, mimeType="image/png", buffer=encoded(image, "PNG")) for name, image in images]
    )
    page.locator("#results > li").nth(len(images) - 1).wait_for()
    if camera:
        page.locator("#camera").click()
        page.locator("#rate", has_text="frames/s").wait_for()
        page.wait_for_timeout(2500)
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    shot.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


@contextmanager
def served(export: str) -> Iterator[str]:
    """The address of a server that shows fp32 and int8 side by side."""
    command = [Path(sys.executable).with_name("dhox"), "serve", export, "--precision", "fp32", "--precision", "int8"]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        finally:
            server.terminate()


def main(export: str) -> None:
    images = demo_images()
    desktop, phone = {"width": 1000, "height": 700}, {"width": 400, "height": 700}
    pictures: list[tuple[str, dict[str, Any], bool, int]] = [
        ("serve.png", {"viewport": desktop}, True, 3),
        ("serve-dark.png", {"viewport": desktop, "color_scheme": "dark"}, False, 3),
        ("serve-narrow.png", {"viewport": phone}, True, 2),
    ]
    with TemporaryDirectory() as folder, served(export) as url, sync_playwright() as player:
        film = camera_file(Path(folder) / "camera.mjpeg", images[1][1])
        camera = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        browser = player.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", *camera, f"--use-file-for-fake-video-capture={film}"],
        )
        for name, options, with_camera, count in pictures:
            context = browser.new_context(**options)
            photograph(context.new_page(), url, images[:count], DOCS / name, with_camera)
            context.close()
            print(DOCS / name)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
