"""What a board answers, checked before anything uses it: it may be broken, or be somebody else's."""

from __future__ import annotations

import json
import math
from typing import Any

from dhox.bench.remote.ssh import printable

DEEPEST = 32  # levels of lists and objects; bench.json has 8
OUT, STATUS, LOOK = {"out": str}, {"status": int}, {"status": int, "out": str, "err": str}
PROBE = {
    "host": str, "machine": str, "system": str, "libc": (str, str), "python": {"version": (int, int, int), "path": str},
    "tensorrt": {"works": bool, "found": str}, "onnxruntime": {"works": bool, "found": str},
    "texts": {"/etc/nv_tegra_release": str, "/proc/device-tree/model": str}, "store": str, "free_bytes": int,
    "environment": [str],
}  # fmt: skip
FINDINGS = [{"what": str, "works": bool, "found": str, "advice": str}]
BENCH = {
    "status": str, "finished_at": str, "device_asked": str, "device": {}, "settings": {}, "method": [str],
    "subjects": [{"name": str}], "runners": [{}], "latency": [{}], "comparisons": [{}], "streams": [{}], "energy": {},
    "accuracy": {}, "ledgers": [{}], "golden": [{"passed": bool}], "cross_checks": [{}], "not_run": [str],
    "environment": {},
}  # fmt: skip


def read_answer(text: bytes | str) -> Any:
    """JSON of a board with every text made printable. Raises ValueError for NaN, infinities, and nesting that no
    answer has.
    """
    try:
        return cleaned(json.loads(text), 0)
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err


def cleaned(value: Any, depth: int) -> Any:
    """The value with printable texts, see `read_answer`."""
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): cleaned(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list):
        return [cleaned(one, depth + 1) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number of JSON")
    return value


def fits(value: Any, shape: Any) -> bool:
    """Whether a JSON value has a shape: a type; [shape] for a list of any length; (shape, ...) for a list of that
    length; {key: shape} for an object with these keys, and perhaps others.
    """
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(key in value and fits(value[key], one) for key, one in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    if isinstance(shape, tuple):
        return isinstance(value, list) and len(value) == len(shape) and all(map(fits, value, shape))
    return type(value) is shape
