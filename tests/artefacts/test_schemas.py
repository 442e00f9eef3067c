"""docs/schemas/ says what the types say."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_kind_of_file_has_the_schema_of_its_type() -> None:
    script = runpy.run_path(str(ROOT / "scripts/write_schemas.py"))
    written = {path.name: path.read_bytes() for path in (ROOT / "docs/schemas").iterdir()}
    wanted = script["schemas"]()
    assert written.keys() == wanted.keys(), "run scripts/write_schemas.py"
    changed = [name for name, content in wanted.items() if written[name] != content]
    assert not changed, f"run scripts/write_schemas.py: {changed}"
    assert {"run.schema.json", "selection.schema.json", "manifest.schema.json", "bench.schema.json"} <= wanted.keys()
