"""Numbers as people read them, and the names of what is counted."""

from __future__ import annotations

from collections.abc import Iterable

from dhox.artefacts.common import Accuracy
from dhox.artefacts.sweep import KnownAccuracy
from dhox.evidence.dho_inference import FIXED_ALPHA, FIXED_BETA

STAGES = {
    "teacher": "teacher, zero-shot",
    "labels_only": "labels only",
    "student": "student",
    "ce_head": "CE head",
    "kd_head": "KD head",
    "dho_fixed": f"DHO, fixed ({FIXED_ALPHA}, {FIXED_BETA})",
    "dho": "DHO",
    "exact": "exact",
    "linear_inference_weights": "linear, untuned",
    "linear_tuned": "linear, tuned",
    "linear_plain": "linear, |z| replaced",
    "trained": "as trained",
    "two_head_torch": "two heads, torch",
    "folded_torch": "folded, torch",
    "torch": "torch",
    "onnx_fp32": "ONNX fp32",
    "onnx_fp16": "ONNX fp16",
    "onnx_int8": "ONNX int8",
}
METRICS = {"accuracy": "Accuracy", "balanced": "Balanced accuracy", "macro-f1": "Macro-F1"}
MOST_NAMED = 6  # that one sentence names


def percent(row: Accuracy | KnownAccuracy, unit: str = " %") -> str:
    """`81.2 % (79.0-83.3)`."""
    low, high = row.interval
    return f"{100 * row.accuracy:.1f}{unit} ({100 * low:.1f}-{100 * high:.1f})"


def share(value: float | None) -> str:
    """A share in %, without the sign."""
    return "-" if value is None else f"{100 * value:.1f}"


def decimals(value: float | None, form: str = ".3f") -> str:
    """A number in a Python format; `-` where there is none."""
    return "-" if value is None else f"{value:{form}}"


def milliseconds(value: float) -> str:
    """A time in ms with at least three significant digits."""
    if value < 0.01:
        return f"{value:.3g}"
    digits = 4 if value < 0.1 else 3 if value < 10 else 2 if value < 100 else 1
    return f"{value:,.{digits}f}"


def milliseconds_interval(value: float, interval: tuple[float, float] | None) -> str:
    """A time in ms with its 95 % interval."""
    if interval is None:
        return milliseconds(value)
    return f"{milliseconds(value)} ({milliseconds(interval[0])}-{milliseconds(interval[1])})"


def count_text(value: float | None) -> str:
    """A rate or an amount, with at least three significant digits; empty for None."""
    if value is None:
        return ""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}" if value >= 1 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_text(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def named(names: Iterable[str]) -> str:
    """A list of names, each once, the first few of many."""
    unique = list(dict.fromkeys(names))
    rest = len(unique) - MOST_NAMED
    return "; ".join(unique[:MOST_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def sentence(text: str) -> str:
    """With one full stop at its end."""
    return f"{text.rstrip('.')}."


def versions(environment: dict[str, str]) -> str:
    """The versions that were there."""
    return f"Versions: {', '.join(f'{name} {value}' for name, value in environment.items())}."
