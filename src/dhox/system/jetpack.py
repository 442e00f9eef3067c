"""What each JetPack is: its L4T releases, and the Ubuntu, Python, CUDA and TensorRT that come with it. Plain data."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class JetPack:
    """One JetPack. `l4t`: its releases of Jetson Linux; `tensorrt`: as far as known; `unverified`: open points."""

    version: str
    l4t: tuple[str, ...]
    ubuntu: str
    python: str
    cuda: str
    tensorrt: str
    unverified: tuple[str, ...] = ()


# L4T of each JetPack: NVIDIA's jetpack-archive and jetson-linux pages, OE4T/meta-tegra's wiki, and l4t_version.py of
# dusty-nv/jetson-containers. An L4T that is not here is reported as it is: no JetPack is guessed for it.
# TensorRT 8 and older: gist Tiryoh/2b5dc1f8..., developer.nvidia.com/embedded/jetpack-sdk-502, edgehook/Jetson-AI-task.
# 10.3 of JetPack 6.1 and 6.2: docs.pytorch.org/TensorRT (JetPack page), jetson-containers.
# 10.13 of 7.0 and 7.1: rbonghi/jetson_stats#820, NVIDIA/IsaacTeleop#1050. 10.16 of 7.2: OE4T/meta-tegra#2224, #2339.
JETPACKS = (
    JetPack("4.6", ("32.6.1",), "18.04", "3.6", "10.2", "8.0.1"),
    JetPack("4.6.1", ("32.7.1",), "18.04", "3.6", "10.2", "8.2.1"),
    JetPack("4.6.2", ("32.7.2",), "18.04", "3.6", "10.2", "8.2.1"),
    JetPack("4.6.3", ("32.7.3",), "18.04", "3.6", "10.2", "8.2.1"),
    JetPack("4.6.4", ("32.7.4",), "18.04", "3.6", "10.2", "8.2.1"),
    JetPack("4.6.6", ("32.7.6",), "18.04", "3.6", "10.2", "8.2.1"),
    JetPack("5.0.2", ("35.1.0",), "20.04", "3.8", "11.4", "8.4.1"),
    JetPack("5.1", ("35.2.1",), "20.04", "3.8", "11.4", "8.5", ("the exact TensorRT 8.5.x",)),
    JetPack("5.1.1", ("35.3.1",), "20.04", "3.8", "11.4", "8.5.2"),
    JetPack("5.1.2", ("35.4.1",), "20.04", "3.8", "11.4", "8.5.2"),
    JetPack("5.1.3", ("35.5.0",), "20.04", "3.8", "11.4", "8.5", ("the exact TensorRT 8.5.x",)),
    JetPack("5.1.4", ("35.6.0",), "20.04", "3.8", "11.4", "8.5", ("the exact TensorRT 8.5.x",)),
    JetPack("5.1.5", ("35.6.1", "35.6.2"), "20.04", "3.8", "11.4", "8.5", ("the exact TensorRT 8.5.x",)),
    JetPack("6.0", ("36.3.0",), "22.04", "3.10", "12.2", "8.6.2", ("TensorRT of 6.0 (8.6.2 is the preview's)",)),
    JetPack("6.1", ("36.4.0",), "22.04", "3.10", "12.6", "10.3.0"),
    JetPack("6.2", ("36.4.3",), "22.04", "3.10", "12.6", "10.3.0"),
    JetPack("6.2.1", ("36.4.4", "36.4.7"), "22.04", "3.10", "12.6", "10.3.0"),
    JetPack("6.2.2", ("36.5.0",), "22.04", "3.10", "12.6", "10.3.0", ("L4T 36.5.0 (some tables say JetPack 6.2.1)",)),
    JetPack("7.0", ("38.2.0", "38.2.1"), "24.04", "3.12", "13.0", "10.13", ("the exact TensorRT 10.13.x",)),
    JetPack("7.1", ("38.4.0",), "24.04", "3.12", "13.0", "10.13.3"),
    JetPack("7.2", ("39.2.0",), "24.04", "3.12", "13.2", "10.16", ("the exact TensorRT 10.16.x",)),
    JetPack("7.2.1", ("39.2.1",), "24.04", "3.12", "13.2", "10.16", ("TensorRT of 7.2.1 (10.16 is that of 7.2)",)),
    # Named by NVIDIA's notes of TensorRT 11.4.1 alone, whose Linux SBSA package goes beside the TensorRT of JetPack.
    JetPack("7.2.2", (), "24.04", "3.12", "13.2", "10.16", ("L4T, CUDA and TensorRT of 7.2.2 (these are 7.2's)",)),
)


def jetpack_of(l4t: str | None) -> JetPack | None:
    """The JetPack that an L4T release belongs to; None for a release that no source names."""
    return next((jetpack for jetpack in JETPACKS if l4t in jetpack.l4t), None)


def parse_release(text: str) -> str | None:
    """The L4T of /etc/nv_tegra_release: "# R36 (release), REVISION: 4.3, ..." -> "36.4.3"; None for another text."""
    found = re.search(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", text)
    return None if found is None else _three_numbers(f"{found[1]}.{found[2]}")


def parse_core_package(text: str) -> str | None:
    """The L4T of the package nvidia-l4t-core's version: "36.4.7-20250918154033" -> "36.4.7"; None for another text."""
    found = re.match(r"\d+(?:\.\d+)+(?=-)", text.strip())
    return None if found is None else _three_numbers(found[0])


def _three_numbers(version: str) -> str:
    """A release as the tables write it: 38.2 -> 38.2.0."""
    return version if version.count(".") >= 2 else f"{version}.0"
