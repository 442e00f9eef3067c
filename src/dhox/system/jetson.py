"""The card of a Jetson board: what it is, what is installed, and how it is set. Nothing is changed."""

from __future__ import annotations

import platform
import re
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from dhox.artefacts.machine import JetsonCard, SetPowerMode, SystemTensorRT
from dhox.system.commands import ask
from dhox.system.jetpack import jetpack_of, parse_core_package, parse_release
from dhox.system.jetson_state import clocks_held, gpu_clock, memory, memory_clock, parse_show, read_text, temperatures
from dhox.system.nvpmodel import current_mode
from dhox.system.sysroot import sysroot, system_path

COMPUTE_CAPABILITY = {"tegra210": "5.3", "tegra186": "6.2", "tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}
# Module by the part number in the device tree; the numbers stand in NVIDIA's Jetson Linux Developer Guide.
MODULES = {
    "p3448": "Jetson Nano",
    "p3668": "Jetson Xavier NX",
    "p2888": "Jetson AGX Xavier",
    "p3701-0000": "Jetson AGX Orin 32 or 64 GB",
    "p3701-0004": "Jetson AGX Orin 32 GB",
    "p3701-0005": "Jetson AGX Orin 64 GB",
    "p3701-0008": "Jetson AGX Orin Industrial 64 GB",
    "p3767-0000": "Jetson Orin NX 16 GB",
    "p3767-0001": "Jetson Orin NX 8 GB",
    "p3767-0003": "Jetson Orin Nano 8 GB",
    "p3767-0004": "Jetson Orin Nano 4 GB",
    "p3767-0005": "Jetson Orin Nano 8 GB (developer kit)",
    "p3834-0008": "Jetson T5000 (AGX Thor developer kit)",
}
PYTHON_PACKAGE = "python3-libnvinfer"


def is_jetson() -> bool:
    """Whether the device tree names an NVIDIA Tegra."""
    return soc() is not None


def board_name() -> str | None:
    """The module, else the board's model; None off a Jetson. Boards of one GPU name have GPUs of several sizes."""
    if soc() is None:
        return None
    return module_name(compatible()) or read_text(system_path("/proc/device-tree/model"))


def jetson_card() -> JetsonCard | None:
    """The board as bench.json records it; None where the device tree names no NVIDIA Tegra.

    An L4T that no table names keeps its number, and has no JetPack.
    """
    chip = soc()
    if chip is None:
        return None
    mode, mode_note = current_mode()
    shown = parse_show(ask("jetson_clocks", "--show").text)
    gpu = gpu_clock() or shown.gpu
    memory_mhz, memory_note = memory_clock(shown)
    release = l4t()
    jetpack = jetpack_of(release)
    return JetsonCard(
        model=read_text(system_path("/proc/device-tree/model")) or "",
        module=module_name(compatible()),
        soc=chip,
        compute_capability=COMPUTE_CAPABILITY.get(chip),
        l4t=release or _read_release(),
        jetpack=jetpack.version if jetpack else None,
        power_mode=SetPowerMode(mode.id, mode.name) if mode else None,
        power_mode_note=mode_note or None,
        jetson_clocks=clocks_held(gpu, shown),
        gpu_clock_mhz=gpu,
        memory_clock_mhz=memory_mhz,
        memory_clock_note=memory_note,
        temperature_c=temperatures(),
        memory_bytes=memory().get("MemTotal"),
        python=platform.python_version(),
        tensorrt=tensorrt_found(),
    )


def compatible() -> list[str]:
    """The entries of /proc/device-tree/compatible; empty where there is none."""
    try:
        content = system_path("/proc/device-tree/compatible").read_bytes()
    except OSError:
        return []
    return [entry.decode("utf-8", "replace") for entry in content.split(b"\0") if entry]


def soc() -> str | None:
    """The Tegra of this board, for example "tegra234"; None elsewhere.

    JetPack 5 says "nvidia,tegra234" and the family "nvidia,tegra23x": the chip counts.
    """
    chips = [entry.removeprefix("nvidia,") for entry in compatible() if entry.startswith("nvidia,tegra")]
    return next((chip for chip in chips if chip in COMPUTE_CAPABILITY), chips[0] if chips else None)


def module_name(entries: list[str]) -> str | None:
    """The module of a device tree's compatible entries, by the part number after the carrier's; None where unknown."""
    for entry in entries:
        part = re.search(r"(?:\+|,)(p\d{4}-\d{4})(?:-|$)", entry)
        if part and (part[1] in MODULES or part[1][:5] in MODULES):
            return MODULES.get(part[1]) or MODULES[part[1][:5]]
    return None


def _read_release() -> str | None:
    """The first line of /etc/nv_tegra_release; None where it is missing, as in many containers."""
    text = read_text(system_path("/etc/nv_tegra_release"))
    return text.splitlines()[0] if text else None


def l4t() -> str | None:
    """The release of Jetson Linux, for example "36.4.3", by its release file, else by its core package."""
    return parse_release(_read_release() or "") or parse_core_package(_package_version("nvidia-l4t-core") or "")


def _package_version(name: str) -> str | None:
    """The version of an installed Debian package; None where it is not installed."""
    answer = ask("dpkg-query", "-W", "-f", "${Version}", name)
    return answer.text.strip() or None if answer.code == 0 else None


def tensorrt_found() -> SystemTensorRT:
    """JetPack's TensorRT for Python; it is looked for, not loaded (that takes memory)."""
    installed = _package_version(PYTHON_PACKAGE)
    if find_spec("tensorrt") is not None:
        return SystemTensorRT(version=installed, why_not=None)
    minors = sorted(
        path.parents[1].name.removeprefix("python")
        for path in system_path("/usr/lib").glob("python3*/dist-packages/tensorrt")
    )
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    why_not = why_no_tensorrt(minors, installed, running, _system_site_packages())
    return SystemTensorRT(version=installed, why_not=why_not)


def why_no_tensorrt(minors: list[str], installed: str | None, running: str, sees_system: bool) -> str:
    """Why `import tensorrt` finds nothing, and what to do.

    `minors`: the Pythons below /usr/lib that hold it ("3", "3.10"); `installed`: the version of its Debian package;
    `running`: this Python; `sees_system`: whether this environment sees system packages.
    """
    if not minors and installed is None:
        return f"{PYTHON_PACKAGE} is not installed: sudo apt install {PYTHON_PACKAGE}"
    numbered = [minor for minor in minors if "." in minor]
    if numbered and running not in numbered:
        return (
            f"TensorRT is installed for the system's Python {', '.join(numbered)}, and another minor version (here "
            f"{running}) cannot import it: make the environment with "
            f"/usr/bin/python{numbered[0]} -m venv --system-site-packages ENV"
        )
    if not sees_system:
        return (
            "TensorRT is installed for the system, and this environment does not see system packages: make it with "
            "/usr/bin/python3 -m venv --system-site-packages ENV"
        )
    return (
        f"the files of {PYTHON_PACKAGE} are not where this Python looks: sudo apt install --reinstall {PYTHON_PACKAGE}"
    )


def _system_site_packages() -> bool:
    """Whether this Python sees the system's packages: it is the system's, or an environment that includes them."""
    if sys.prefix == sys.base_prefix:
        return sysroot() == Path("/") and Path(sysconfig.get_path("stdlib")).is_relative_to("/usr")
    configuration = read_text(Path(sys.prefix) / "pyvenv.cfg") or ""
    return bool(re.search(r"^include-system-site-packages\s*=\s*true", configuration, re.MULTILINE | re.IGNORECASE))
