"""What this machine is: processor, cores, Jetson board (files only; nothing is changed)."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from dhox.artefacts.machine import DeviceCard, GpuCard
from dhox.system.jetson import jetson_card
from dhox.system.jetson_state import memory
from dhox.system.sysroot import sysroot, system_path

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "jetson")  # what --device may be


def device_card(gpu: GpuCard | None = None) -> DeviceCard:
    """The machine as bench.json records it; `gpu`: as its management library tells."""
    return DeviceCard(
        host=platform.node(),
        platform=platform.platform(),
        machine=platform.machine(),
        cpu=cpu_model(),
        cpu_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        memory_bytes=memory().get("MemTotal"),
        gpu=gpu,
        jetson=jetson_card(),
        sysroot=None if sysroot() == Path("/") else str(sysroot()),
    )


def cpu_model() -> str:
    """The processor's name where /proc/cpuinfo tells it, else its architecture."""
    try:
        lines = system_path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
