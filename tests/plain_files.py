"""Plain JSON and NPZ files for tests that read what dhox wrote, or write what it would not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
