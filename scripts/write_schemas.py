"""Write docs/schemas/: a JSON Schema for every kind of JSON file, from its type.

python scripts/write_schemas.py
"""

from __future__ import annotations

import json
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import msgspec

import dhox.artefacts
from dhox.artefacts.record import Kind

FOLDER = Path(__file__).parents[1] / "docs/schemas"


def kinds() -> list[type[Kind]]:
    """Every kind of file, by the name of its type."""
    for module in pkgutil.iter_modules(dhox.artefacts.__path__):
        import_module(f"dhox.artefacts.{module.name}")
    return sorted(
        (kind for kind in Kind.__subclasses__() if kind.__module__.startswith("dhox.artefacts")),
        key=lambda k: k.__name__,
    )


def json_schema(kind: type[Kind]) -> bytes:
    """The JSON Schema of a kind of file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}
    return (json.dumps(schema, indent=2, ensure_ascii=False) + "\n").encode()


def schemas() -> dict[str, bytes]:
    """File name -> content: BenchRun is in bench-run.schema.json."""
    return {
        f"{re.sub('(?<!^)(?=[A-Z])', '-', kind.__name__).lower()}.schema.json": json_schema(kind) for kind in kinds()
    }


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.schema.json"):
        old.unlink()
    for name, content in schemas().items():
        (FOLDER / name).write_bytes(content)
        print(FOLDER / name)
