from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest
from sensor_trees import plant, put

from dhox.artefacts.machine import Conditions, Spread, Warming
from dhox.bench.sensors.conditions import ConditionsWatch, fixed, spread


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DHOX_SYSROOT", str(tmp_path))
    return tmp_path


def test_a_quiet_board(root: Path, tmp_path: Path) -> None:
    plant("orin_nano_super", root)
    with ConditionsWatch("cuda", hertz=50) as conditions:
        time.sleep(0.1)
    summary = conditions.summary()
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Conditions) == summary
    assert summary.sampled >= 3
    assert summary.gpu_clock_mhz == Spread(306, 306, 306)
    assert summary.temperature_c == {
        "cpu-thermal": Warming(51.187, 51.187),
        "gpu-thermal": Warming(50.218, 50.218),
    }  # cv0-thermal is powered down
    assert summary.throttled == []
    assert summary.locked is False
    assert "below its highest (918 MHz) in 100% of the samples" in summary.note
    assert summary.memory_clock_mhz is None
    assert summary.sample_ms > 0


def test_what_the_board_s_protection_counts_during_the_run(root: Path) -> None:
    plant("synthetic_orin_nano_over_current", root)
    with ConditionsWatch("cuda", hertz=50) as conditions:
        assert conditions.summary().throttled == []  # what was counted before is not ours
        put(root, "/sys/class/hwmon/hwmon3/oc3_event_cnt", 38)
        put(root, "/sys/class/hwmon/hwmon1/curr1_crit_alarm", 1)
        put(root, "/sys/class/thermal/thermal_zone8/temp", 70000)
        time.sleep(0.1)
        put(root, "/sys/class/hwmon/hwmon1/curr1_crit_alarm", 0)
    summary = conditions.summary()
    assert summary.throttled == ["over-current alarm (VDD_IN)", "instantaneous over-current"]
    assert summary.temperature_c["tj-thermal"] == Warming(63.781, 70.0)
    assert summary.memory_clock_mhz.median == 3199  # where debugfs may be read
    assert summary.locked is True
    assert summary.note is None


def test_a_cooling_device_in_action_is_a_throttle_and_the_fan_is_none(root: Path) -> None:
    plant("thor_devkit_l4t_38_4", root)
    put(root, "/sys/class/devfreq/gpu-nvd-0/cur_freq", 1_000_000_000)  # of the video engines
    with ConditionsWatch("cuda", hertz=50) as conditions:
        put(root, "/sys/class/thermal/cooling_device1/cur_state", 1)
        put(root, "/sys/class/thermal/cooling_device4/cur_state", 18)
    summary = conditions.summary()
    assert summary.throttled == ["temperature (gpu-throttle-alert)", "temperature (devfreq-gpu-gpc-0)"]
    assert summary.gpu_clock_mhz is None
    assert summary.locked is None
    assert "GPU clocks not read" in summary.note


def test_a_processor_that_gets_hot(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    plant("synthetic_x86_laptop", root)
    with ConditionsWatch("cpu", hertz=50) as conditions:
        assert not conditions.throttled()
        put(root, "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", 41)
        assert [conditions.throttled(), conditions.throttled()] == [True, False]
        put(root, "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", 42)
        assert conditions.throttled()
    summary = conditions.summary()
    assert summary.throttled == ["CPU temperature (package)"]
    assert summary.cpu_clock_mhz.max == 3400
    assert (summary.locked, summary.note) == (False, None)
    put(root, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq", 4800000)
    assert conditions.summary().locked is True


def test_a_machine_that_tells_nothing(root: Path) -> None:
    with ConditionsWatch("cpu", hertz=50) as conditions:
        pass
    summary = conditions.summary()
    assert summary.sampled >= 2
    assert (summary.gpu_clock_mhz, summary.cpu_clock_mhz, summary.locked) == (None, None, None)
    assert "CPU clocks not read" in summary.note


def test_the_thread_ends_with_the_context(root: Path) -> None:
    conditions = ConditionsWatch("cpu", hertz=50)

    def fail() -> None:
        with conditions:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not conditions.thread.is_alive()


def test_spread_and_fixed() -> None:
    assert spread([]) is None
    assert spread([3, 1, 2]) == Spread(1, 2, 3)
    assert fixed([]) is None
    assert fixed([(1, 1), None]) is None
    assert fixed([(1, 1), (2, 2)]) is True
    assert fixed([(1, 1), (1, 2)]) is False
