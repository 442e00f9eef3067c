"""Sections as an HTML page that needs nothing from outside: one template, one stylesheet."""

from __future__ import annotations

import re
from pathlib import Path

from dhox.artefacts.files import write_bytes
from dhox.errors import DhoxError, require
from dhox.reports.sections import Page, Picture


def report_libraries_missing() -> str | None:
    """Why no page can be drawn here, or None."""
    try:
        require("jinja2", "report")
        require("matplotlib", "report")
    except DhoxError as err:
        return str(err)
    return None


def write_page(path: Path, page: Page) -> Path:
    """Write a page as HTML. Returns `path`. Raises DhoxError where the report's libraries are missing."""
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["joints"] = joints
    template = environment.from_string((Path(__file__).parent / "page.html.j2").read_text(encoding="utf-8"))
    write_bytes(path, template.render(page=page, images=Images()).encode())
    return path


class Images:
    """The images that a page shows, each once."""

    def __init__(self) -> None:
        self.shown: dict[str, tuple[str, Picture]] = {}

    def id_of(self, picture: Picture) -> str:
        """What the page calls an image, which stands at its end."""
        return self.shown.setdefault(picture.uri, (f"image-{len(self.shown)}", picture))[0]


def joints(name: str) -> str:
    """A name as HTML, escaped, with places to break before its parts."""
    markupsafe = require("markupsafe", "report")
    text: str = markupsafe.Markup(re.sub(r"(?=[/:])|(?<=_)", "<wbr>", str(markupsafe.escape(name))))
    return text
