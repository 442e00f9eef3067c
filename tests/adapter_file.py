"""The tests' own reader of adapter.safetensors."""

from __future__ import annotations

from pathlib import Path

import msgspec
from safetensors import safe_open

from dhox.artefacts.adapter import AdapterHeader
from dhox.distill.teachers.adapter import TipAdapter


def read_adapter(path: Path) -> TipAdapter:
    with safe_open(path, "pt") as file:
        header = msgspec.json.decode(file.metadata()["dhox"], type=AdapterHeader)
        keys, values, text = (file.get_tensor(name) for name in ("keys", "values", "text"))
    return TipAdapter(keys, values, text, header.scale, header.alpha, header.beta, header.chosen_on, header.n)
