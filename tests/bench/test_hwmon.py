from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sensor_trees import SENSORS, SOURCES, plant, put

from dhox.bench.sensors.hwmon import HwmonMeter, find_rails, open_hwmon
from dhox.system.jetson import is_jetson


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DHOX_SYSROOT", str(tmp_path))
    return tmp_path


def meter() -> HwmonMeter:
    found, reason = open_hwmon()
    assert found is not None, reason
    return found


def watts(of: HwmonMeter) -> dict[str, float]:
    now = of.read().watts
    assert now is not None
    return now


def test_every_recording_names_its_source() -> None:
    assert {path.name for path in SENSORS.glob("*.txt")} == set(SOURCES)
    for name, entry in SOURCES.items():
        assert set(entry) == {"board", "software", "source"}
        assert name.startswith("synthetic_") == ("by hand" in entry["source"])


def test_agx_orin_adds_up_three_rails_and_not_the_one_inside_another(root: Path) -> None:
    plant("agx_orin_devkit", root)
    assert is_jetson()
    assert meter().name == "INA3221 power monitor"
    found = meter()
    assert found.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")  # no NC, no sum of shunts
    assert found.total == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    assert found.estimate
    assert watts(found)["VDD_GPU_SOC"] == pytest.approx(12.008 * 0.28)
    assert sum(watts(found)[rail] for rail in found.total) == pytest.approx(3.36224 + 0.48032 + 4.86864)
    assert found.error_w == pytest.approx(0.04 * (12.008 + 12.008 + 4.968))  # 80 uV over 2 milliohms, at each voltage
    assert "not the carrier board" in found.includes


def test_orin_nano_has_a_rail_that_is_the_total(root: Path) -> None:
    plant("orin_nano_super", root)
    found = meter()
    assert (found.total, found.estimate) == (("VDD_IN",), False)
    assert watts(found) == pytest.approx(
        {"VDD_IN": 4.984 * 0.96, "VDD_CPU_GPU_CV": 4.976 * 0.12, "VDD_SOC": 4.976 * 0.304}
    )
    assert found.error_w == pytest.approx(80e-6 / 5e-3 * 4.984)


def test_thor_s_input_replaces_the_sum(root: Path) -> None:
    plant("thor_devkit", root)
    found = meter()
    assert (found.total, found.estimate, found.rails) == (("VIN",), False, ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN"))
    assert watts(found)["VIN"] == pytest.approx(20.986)  # microwatts
    assert found.error_w is None


def test_thor_without_its_input_monitor_is_an_estimate(root: Path) -> None:
    plant("thor_devkit_l4t_38_4", root)
    found = meter()
    assert (found.total, found.estimate) == (("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"), True)
    assert sum(watts(found).values()) == pytest.approx(28.117, abs=0.001)
    assert found.error_w is None  # the recording has no shunt resistors


@pytest.mark.parametrize(
    ("recording", "total"),
    [("synthetic_xavier_nx", ("VDD_IN",)), ("synthetic_agx_xavier", ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"))],
)
def test_xavier(root: Path, recording: str, total: tuple[str, ...]) -> None:
    plant(recording, root)
    assert meter().total == total
    assert meter().estimate == (len(total) > 1)


def test_a_rail_of_the_total_that_is_off_makes_the_sum_impossible(root: Path) -> None:
    plant("agx_orin_channel_off", root)
    found, reason = open_hwmon()
    assert found is None
    assert "rail VIN_SYS_5V0 cannot be read" in reason
    assert "in3_input" in reason
    assert "dmesg" in reason


def test_a_rail_outside_the_total_that_fails_is_left_out(root: Path) -> None:
    plant("orin_nano_super", root)
    put(root, "/sys/class/hwmon/hwmon1/curr3_input", "garbage")
    assert meter().rails == ("VDD_IN", "VDD_CPU_GPU_CV")


def test_negative_current_is_kept_as_the_sensor_s_offset(root: Path) -> None:
    plant("thor_devkit_l4t_38_4", root)
    put(root, "/sys/class/hwmon/hwmon5/curr1_input", -32)  # Thor's GPU rail was seen at -392 mW when powered down
    assert watts(meter())["VDD_GPU"] == pytest.approx(-0.385, abs=0.001)


def test_a_sensor_that_stops_answering_raises(root: Path) -> None:
    plant("orin_nano_super", root)
    found = meter()
    (root / "sys/class/hwmon/hwmon1/curr1_input").unlink()
    with pytest.raises(OSError, match="curr1_input"):
        found.read()


def test_unknown_rails_are_not_added_up(root: Path) -> None:
    plant("synthetic_unknown_board", root)
    found, reason = open_hwmon()
    assert found is None
    assert "VDD_ARM, VDD_LEGS" in reason
    assert "USB" not in reason  # what a USB-C port negotiated is no measurement


def test_a_board_without_monitors(root: Path) -> None:
    assert not is_jetson()
    assert find_rails() == []
    found, reason = open_hwmon()
    assert found is None
    assert "no power monitor" in reason


@pytest.fixture
def as_nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine that every user may look at, looked at by a user without rights."""
    place = Path(tempfile.mkdtemp(prefix="dhox-board-"))
    place.chmod(0o755)
    monkeypatch.setenv("DHOX_SYSROOT", str(place))
    yield place
    if os.geteuid() != os.getuid():
        os.seteuid(os.getuid())
    shutil.rmtree(place)


def test_a_rail_that_this_user_may_not_read(as_nobody: Path) -> None:
    plant("orin_nano_super", as_nobody)
    (as_nobody / "sys/class/hwmon/hwmon1/curr1_input").chmod(0)
    if os.getuid() == 0:
        os.seteuid(65534)
    found, reason = open_hwmon()
    assert found is None
    assert "rail VDD_IN cannot be read" in reason
    assert "Permission denied" in reason
    assert "sudo chmod a+r" in reason
