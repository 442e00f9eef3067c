"""Write docs/*.png of the pages that commands write, in Debian's chromium.

After `dhox demo`, in its folder, with the audit, the sweep and the drift of docs/audit.md, sweep.md and drift.md:

    python scripts/write_page_pictures.py runs/demo audits/demo-data sweeps/NAME runs/demo/drift/TIME
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

DOCS = Path(__file__).parents[1] / "docs"
DESKTOP, PHONE = {"width": 1100, "height": 900}, {"width": 400, "height": 900}


def photograph(browser: Browser, page_file: Path, name: str, height: int, **options: Any) -> None:
    """Save the first `height` pixels of a page, in 64 colours."""
    page = browser.new_page(**options)
    page.goto(page_file.absolute().as_uri())
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    shot = shot.crop((0, 0, shot.width, min(height, shot.height)))
    shot.quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(DOCS / name, optimize=True)
    page.close()
    print(DOCS / name)


def main(run: Path, audit: Path, sweep: Path, drift: Path) -> None:
    bench = next(run.glob("bench/*/report.html"))
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        photograph(browser, run / "report.html", "report.png", 1350, viewport=DESKTOP)
        photograph(browser, run / "report.html", "report-narrow.png", 1250, viewport=PHONE)
        photograph(browser, run / "report.html", "report-dark.png", 800, viewport=DESKTOP, color_scheme="dark")
        photograph(browser, bench, "bench-report.png", 900, viewport=DESKTOP)
        photograph(browser, audit / "audit.html", "audit.png", 1200, viewport=DESKTOP)
        photograph(browser, sweep / "sweep.html", "sweep.png", 1200, viewport=DESKTOP)
        photograph(browser, drift / "drift.html", "drift.png", 1300, viewport=DESKTOP)
        browser.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
