"""Machines to measure: trees of small kernel files, from public recordings (tests/sensors/SOURCES.json)."""

from __future__ import annotations

import json
from pathlib import Path

SENSORS = Path(__file__).parent / "sensors"
SOURCES: dict[str, dict[str, str]] = json.loads((SENSORS / "SOURCES.json").read_text(encoding="utf-8"))


def plant(name: str, root: Path) -> Path:
    """Write the files of a recording below `root`, one line each: /path = content."""
    for line in (SENSORS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        path, content = line.split(" = ", 1)
        put(root, path, content.replace("\\0", "\0"))
    return root


def put(root: Path, path: str, content: object) -> Path:
    """One file of the machine, or another content for it."""
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"{content}\n", encoding="utf-8")
    return place
