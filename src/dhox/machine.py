"""What this machine is: processor, GPU, Jetson board (files and optional imports only; nothing is changed)."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "jetson")  # what --device may be
DEVICE_TREE = Path("/proc/device-tree")
L4T_RELEASE = Path("/etc/nv_tegra_release")


def device_card() -> dict[str, Any]:
    """The machine as bench.json records it."""
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "jetson": jetson(),
    }


def cpu_model() -> str:
    """The processor's name where /proc/cpuinfo tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def jetson(device_tree: Path = DEVICE_TREE, l4t_release: Path = L4T_RELEASE) -> dict[str, str] | None:
    """Board and L4T release of a Jetson, by its device tree; None elsewhere."""
    try:
        compatible = (device_tree / "compatible").read_bytes().split(b"\0")
    except OSError:
        return None
    if not any(entry.startswith(b"nvidia,tegra") for entry in compatible):
        return None
    model = (device_tree / "model").read_bytes().rstrip(b"\0").decode() if (device_tree / "model").exists() else ""
    release = l4t_release.read_text(encoding="utf-8").splitlines()[0] if l4t_release.exists() else ""
    return {"model": model, "l4t": release}
