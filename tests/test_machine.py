from __future__ import annotations

from pathlib import Path

from dhox.machine import device_card, jetson


def test_a_jetson_is_known_by_its_device_tree(tmp_path: Path) -> None:
    (tmp_path / "compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0")
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\nmore\n")
    assert jetson(tmp_path, release) == {
        "model": "NVIDIA Jetson Orin Nano Developer Kit",
        "l4t": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
    }
    assert jetson(tmp_path, tmp_path / "none") == {"model": "NVIDIA Jetson Orin Nano Developer Kit", "l4t": ""}


def test_other_boards_and_machines_are_none(tmp_path: Path) -> None:
    assert jetson(tmp_path, tmp_path / "none") is None
    (tmp_path / "compatible").write_bytes(b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert jetson(tmp_path, tmp_path / "none") is None


def test_the_card_has_no_empty_field() -> None:
    card = device_card()
    assert all(card[key] for key in ("host", "platform", "machine", "cpu", "cpu_cores"))
