from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_trees import plant, put

from dhox.bench.sensors.rapl import RaplMeter, advance, find_domains, open_rapl


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DHOX_SYSROOT", str(tmp_path))
    return tmp_path


def meter() -> RaplMeter:
    found, reason = open_rapl()
    assert found is not None, reason
    return found


@given(st.integers(1, 2**40), st.data())
def test_a_wrapped_counter_gives_what_passed(reach: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, reach - 1))
    steps = data.draw(st.lists(st.integers(0, reach - 1), max_size=20))  # less than a whole turn between two readings
    true, last, passed = start, start, 0
    for step in steps:
        true += step
        passed += advance(last, true % reach, reach)
        last = true % reach
    assert passed == sum(steps)


def test_packages_count_and_the_platform_is_stored(root: Path) -> None:
    plant("rapl_package_psys", root)
    found = meter()
    assert (found.rails, found.total, found.estimate) == (("package-0", "psys"), ("package-0",), False)
    put(root, "/sys/class/powercap/intel-rapl:0/energy_uj", 52649883221 + 2_500_000)
    assert found.read().joules == {"package-0": 2.5, "psys": 0.0}


def test_two_sockets_add_up_without_their_parts_and_twins(root: Path) -> None:
    plant("synthetic_rapl_two_sockets", root)
    found = meter()
    assert found.rails == ("package-0", "package-0/core", "package-0/dram", "package-1")
    assert found.total == ("package-0", "package-1")
    put(root, "/sys/class/powercap/intel-rapl:0/energy_uj", 389_013)  # began again
    put(root, "/sys/class/powercap/intel-rapl:1/energy_uj", 6_000_000)
    joules = found.read().joules
    assert joules is not None
    assert joules["package-0"] == pytest.approx(1.0)
    assert joules["package-1"] == pytest.approx(1.0)
    assert found.read().joules == joules  # nothing passed since


def test_a_counter_without_a_range_is_not_used(root: Path) -> None:
    plant("rapl_package_psys", root)
    put(root, "/sys/class/powercap/intel-rapl:1/max_energy_range_uj", 0)
    assert [domain.name for domain in find_domains()] == ["package-0"]


def test_no_counters(root: Path) -> None:
    found, reason = open_rapl()
    assert found is None
    assert "virtual machines" in reason


def test_counters_for_root_only_say_how_to_open_them(root: Path) -> None:
    plant("rapl_package_psys", root)
    energy = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    energy.unlink()
    energy.mkdir()  # unreadable for root too
    found, reason = open_rapl()
    assert found is None
    assert "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj" in reason
