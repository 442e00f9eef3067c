from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses
from sensor_trees import plant, put

from dhox.artefacts.bench_energy import Energy
from dhox.artefacts.bench_latency import Key
from dhox.bench.rounds import Cell
from dhox.bench.sensors.energy import (
    GAPS,
    Sampler,
    between,
    energy_content,
    figures,
    find_meter,
    integral,
    measure_energy,
    measure_idle,
    resolution,
    running_joules,
)
from dhox.bench.sensors.meter import Reading


def nap_cell(batch: int) -> Cell:
    """A steady loop's call, as a cell of that batch."""
    return Cell(Key("fp32", "onnxruntime", batch, "device"), nap)


class Signal:
    """A meter of a known power over time: two rails, of which one is the total; in watts, or counted in steps."""

    name = includes = error = "signal"
    rails = ("IN", "PART")
    total = ("IN",)
    estimate = False
    error_w = 0.1

    def __init__(self, joules: Callable[[float], float], step_s: float | None = None) -> None:
        self.joules = joules
        self.step_s = step_s
        self.start = time.perf_counter()
        self.failing = False

    def read(self) -> Reading:
        if self.failing:
            raise OSError("no answer")
        now = time.perf_counter() - self.start
        if self.step_s is None:
            power = (self.joules(now + 1e-6) - self.joules(now - 1e-6)) / 2e-6
            return Reading(None, {"IN": power, "PART": power / 4})
        counted = self.joules(now // self.step_s * self.step_s)
        return Reading({"IN": 1000 + counted, "PART": counted / 4}, None)

    def close(self) -> None:
        pass


def ramp(seconds: float) -> float:
    """Joules of 5 W that grow by 10 W every second."""
    return 5 * seconds + 5 * seconds**2


def steady(seconds: float) -> float:
    return 20 * seconds


def nap() -> None:
    time.sleep(0.005)


@pytest.mark.parametrize("step_s", [None, 0.002])
def test_energy_of_a_known_ramp(step_s: float | None) -> None:
    meter = Signal(ramp, step_s)
    row, trace = measure_energy(meter, nap_cell(4), None, 0.6, settle_s=0.1, hertz=50)
    first = trace.seconds[0]
    assert first < 0.6
    start, end = trace.window
    middle = (start + end) / 2  # of a linear power, the mean is the power in the middle
    assert row.mean_w == pytest.approx(5 + 10 * middle, rel=0.03)
    assert row.rails_w["PART"] == pytest.approx(row.mean_w / 4)
    assert row.seconds == pytest.approx(end - start)
    assert row.seconds >= 0.6
    assert row.images == 4 * row.calls
    assert row.mj_per_image == pytest.approx(row.mean_w * row.seconds / row.images * 1e3)
    assert "power drifts" in row.flags
    assert (row.idle_w, row.net_w, row.net_mj_per_image, row.mj_per_correct) == (None,) * 4


def test_idle_power_is_subtracted() -> None:
    meter = Signal(steady)
    idle = measure_idle(meter, 0.2, settle_s=0, hertz=50)
    assert idle.mean_w == pytest.approx(20, rel=1e-3)
    assert idle.rails_w["PART"] == pytest.approx(5, rel=1e-3)
    idle = msgspec.structs.replace(idle, mean_w=15.0)
    row, _ = measure_energy(meter, nap_cell(1), idle, 0.2, accuracy=0.8, settle_s=0, hertz=50)
    assert row.net_w == pytest.approx(5, rel=0.01)
    assert row.net_mj_per_image == pytest.approx(row.mj_per_image / 4, rel=0.01)
    assert row.mj_per_correct == pytest.approx(row.mj_per_image / 0.8)
    assert row.images_per_joule == pytest.approx(1e3 / row.mj_per_image)
    assert "power drifts" not in row.flags
    assert "not above idle" not in row.flags
    idle = msgspec.structs.replace(idle, mean_w=21.0)
    row, _ = measure_energy(meter, nap_cell(1), idle, 0.2, settle_s=0, hertz=50)
    assert row.net_mj_per_image < 0  # shown, not hidden
    assert "not above idle" in row.flags
    assert readable(energy_content(meter, idle, [row]))


def test_a_window_too_short_for_the_counter_is_flagged() -> None:
    row, _ = measure_energy(Signal(steady, step_s=0.1), nap_cell(1), None, 0.5, settle_s=0, hertz=50)
    assert "window too short for the sensor" in row.flags
    assert 0.15 <= row.resolution <= 0.35  # about 5 steps


def test_the_resolution_of_a_counter_is_one_of_its_steps() -> None:
    seconds, joules = np.linspace(0, 30, 601), np.floor(np.linspace(0, 30, 601) / 0.1)
    assert resolution(seconds, joules, 0, 30, counter=True) == pytest.approx(1 / 300)
    assert resolution(seconds, joules, 10, 20, counter=True) == pytest.approx(1 / 100)
    assert resolution(seconds, joules, 10, 10.01, counter=True) == 1


def test_the_resolution_of_a_power_sensor_is_the_spread_of_windows() -> None:
    rng = np.random.default_rng(0)
    found, means = [], []
    for _ in range(300):
        seconds = np.cumsum(rng.uniform(*GAPS, 400)) / 20
        joules = integral(seconds, rng.choice([8.0, 14.0], 400))
        found.append(resolution(seconds, joules, seconds[0], seconds[-1], counter=False))
        means.append(joules[-1] / (seconds[-1] - seconds[0]))
    assert np.mean(found) == pytest.approx(np.std(means) / 11, rel=0.15)


def test_a_slow_change_is_no_uncertainty() -> None:
    seconds = np.linspace(0, 30, 601)
    assert resolution(seconds, integral(seconds, 5 + seconds / 3), 0, 30, counter=False) < 1e-3
    assert resolution(seconds, integral(seconds, np.full(601, 9.0)), 0, 30, counter=False) < 1e-9


def test_the_trace_of_a_counter_is_its_slope() -> None:
    _, trace = measure_energy(Signal(steady, step_s=0.001), nap_cell(1), None, 1.1, settle_s=0, hertz=50)
    assert len(trace.seconds) == len(trace.watts) >= 2
    assert trace.watts == pytest.approx(20, rel=0.05)


def test_a_sensor_that_fails_stops_the_measurement() -> None:
    meter = Signal(steady)
    meter.failing = True
    with refuses("signal", "no answer", at="bench.sensors.energy.running_joules"):
        measure_energy(meter, nap_cell(1), None, 0.1, settle_s=0, hertz=50)


def test_few_missed_readings_are_told_many_are_refused() -> None:
    sampler = Sampler(Signal(steady))
    for i in range(40):
        sampler.meter.failing = i in (5, 6)  # type: ignore[attr-defined]
        sampler.look()
    assert (sampler.missed, len(sampler.times)) == (2, 38)
    assert running_joules(sampler)["IN"][-1] == pytest.approx(20 * (sampler.times[-1] - sampler.times[0]))
    sampler.meter.failing = True  # type: ignore[attr-defined]
    for _ in range(3):
        sampler.look()
    with refuses("signal", 5, 43, at="bench.sensors.energy.running_joules"):
        running_joules(sampler)


def test_a_load_in_step_with_the_readings_is_seen_at_all_its_levels() -> None:
    """On a fixed beat every reading would fall on the same part of the period."""
    hertz = 40.0
    meter = Signal(lambda seconds: 20 * seconds + 10 * abs((seconds * hertz) % 1 - 0.5) / hertz)  # 10 W, then 30 W
    with Sampler(meter, hertz) as sampler:
        time.sleep(1.0)
    watts = np.array([reading.watts["IN"] for reading in sampler.readings if reading.watts])
    assert 0.1 < (watts > 20).mean() < 0.9  # a fixed beat: 0 or 1


def test_the_thread_ends_with_the_measurement_even_when_it_fails() -> None:
    sampler = Sampler(Signal(steady), hertz=50)

    def fail() -> None:
        with sampler:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not sampler.thread.is_alive()


powers = st.lists(st.floats(-1, 1000), min_size=2, max_size=30)


@given(powers, st.data())
def test_energies_of_adjoining_windows_add_up(watts: list[float], data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.floats(0.001, 1), min_size=len(watts), max_size=len(watts)))
    seconds = np.cumsum(gaps)
    joules = integral(seconds, np.array(watts))
    a, b, c = sorted(data.draw(st.lists(st.floats(seconds[0], seconds[-1]), min_size=3, max_size=3)))
    whole = between(seconds, joules, a, c)
    assert between(seconds, joules, a, b) + between(seconds, joules, b, c) == pytest.approx(whole, abs=1e-6)
    assert min(watts) * (c - a) - 1e-6 <= whole <= max(watts) * (c - a) + 1e-6


@given(st.floats(0.1, 1e5), st.floats(1, 1e3), st.integers(1, 10**6), st.floats(0, 1e3), st.floats(0.01, 1))
def test_figures_belong_together(joules: float, seconds: float, images: int, idle: float, accuracy: float) -> None:
    row = figures(joules, seconds, images, idle, accuracy)
    assert row.mj_per_image * row.images_per_joule == pytest.approx(1e3)
    saved = row.mj_per_image - row.net_mj_per_image
    assert saved == pytest.approx(idle * seconds / images * 1e3, rel=1e-6, abs=1e-9 + 1e-9 * row.mj_per_image)
    assert row.mj_per_correct >= row.mj_per_image


def test_no_accuracy_no_energy_per_correct_prediction() -> None:
    assert figures(1, 1, 1, None, 0.0).mj_per_correct is None


def test_each_machine_gets_its_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_SYSROOT", str(tmp_path))
    assert find_meter("cpu")[0] is None
    plant("rapl_package_psys", tmp_path)
    meter, _ = find_meter("cpu")
    assert meter is not None
    assert (meter.name, meter.total) == ("RAPL energy counter", ("package-0",))
    gpu_meter, _ = find_meter("cuda")
    assert gpu_meter is None or "RAPL" not in gpu_meter.name  # never the processor's counter for a GPU run
    plant("orin_nano_super", tmp_path)
    for device in ("cpu", "cuda", "tensorrt", "jetson"):
        meter, _ = find_meter(device)
        assert meter is not None
        assert (meter.name, meter.total) == ("INA3221 power monitor", ("VDD_IN",))


def test_a_board_from_files_to_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_SYSROOT", str(plant("agx_orin_devkit", tmp_path)))
    meter, _ = find_meter("cuda")
    assert meter is not None
    idle = measure_idle(meter, 0.1, settle_s=0)
    put(tmp_path, "/sys/class/hwmon/hwmon3/curr1_input", 1280)  # 1 A more on 12 V
    row, trace = measure_energy(meter, nap_cell(2), idle, 0.2, settle_s=0, accuracy=0.5)
    assert row.net_w == pytest.approx(12.008)
    assert set(row.rails_w) == set(meter.rails)
    assert trace.watts.max() == pytest.approx(20.7192)
    content = energy_content(meter, idle, [row])
    assert content.estimate
    assert content.total == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]
    assert readable(content)


def readable(energy: Energy) -> bool:
    """Whether bench.json can hold it."""
    return msgspec.json.decode(msgspec.json.encode(energy), type=Energy) == energy
