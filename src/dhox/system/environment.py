"""What ran where: versions and times for the JSON files."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("dhox", "numpy", "pillow", "torch", "timm", "open_clip_torch", "onnx", "onnxruntime", "onnxruntime-gpu")


def now() -> str:
    """The time in UTC, ISO 8601 to the microsecond, so that text order is time order."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def versions() -> dict[str, str]:
    """Versions of Python, the operating system and the packages that matter, where installed (nothing is imported)."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
