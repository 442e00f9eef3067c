"""Write the map of files in docs/architecture.md: every module with the first line of its docstring.

python scripts/write_map.py
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architecture.md"
FOLDERS = ("distill", "export", "bench", "src/dhox", "benchmarks", "scripts")
START, END = "<!-- map: scripts/write_map.py -->\n", "<!-- end of the map -->\n"


def first_line(path: Path) -> str:
    """What a module says of itself; its docstring begins with one short line."""
    words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return words.splitlines()[0] if words else ""


def rows(folder: Path) -> list[tuple[str, str]]:
    """(name, line) of a folder: itself, its modules, then its folders with theirs."""
    package = folder / "__init__.py"
    name = f"{folder.relative_to(ROOT).as_posix()}/"
    found = [(name, first_line(package) if package.exists() else "")]
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    found += [(f"  {path.name}", first_line(path)) for path in modules]
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and any(path.rglob("*.py"))):
        found += rows(inner)
    return found


def map_of_files() -> str:
    """The map as the page holds it."""
    found = [row for folder in FOLDERS for row in rows(ROOT / folder)]
    width = max(len(name) for name, _ in found) + 2
    lines = "\n".join(f"{name:{width}}{line}".rstrip() for name, line in found)
    return f"```\n{lines}\n```\n"


def page_with_map() -> str:
    """docs/architecture.md with the map of today."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    return before + START + map_of_files() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page_with_map(), encoding="utf-8")
