"""What this machine is: processor, cores, Jetson board (files only; nothing is changed)."""

from __future__ import annotations

import contextlib
import os
import platform
import re
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


def available_memory() -> int | None:
    """Bytes that may still be taken: of the machine, and of the control group (container) that limits this process.

    None where neither is told.
    """
    found = [memory().get("MemAvailable")]
    with contextlib.suppress(OSError, ValueError):  # no control group, or `max`
        limit, used = (int(system_path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        cached = re.search(
            r"^inactive_file (\d+)$", system_path("/sys/fs/cgroup/memory.stat").read_text(), re.MULTILINE
        )
        found.append(limit - used + int(cached[1] if cached else 0))
    return min((free for free in found if free is not None), default=None)


def cpu_model() -> str:
    """The processor's name where /proc/cpuinfo tells it, else its architecture."""
    try:
        lines = system_path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
