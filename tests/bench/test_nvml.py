"""pynvml itself on a driver that answers as told: the library comes with NVIDIA's driver and cannot be installed."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pynvml
import pytest

import dhox.bench.sensors.nvml as nvml
from dhox.artefacts.machine import GpuCard
from dhox.bench.sensors.nvml import cuda_bus_id, gpu_card, open_gpu, open_nvml

NOT_SUPPORTED = 3


class Driver:
    """libnvidia-ml's C functions; what `answers` does not hold is not supported, as on a Jetson."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments: self.call(name, arguments)

    def call(self, name: str, arguments: tuple[Any, ...]) -> int:
        self.open += {"nvmlInitWithFlags": 1, "nvmlShutdown": -1}.get(name, 0)
        if name in ("nvmlInitWithFlags", "nvmlShutdown"):
            return int(self.answers.get(name, 0))
        if name == "nvmlDeviceGetFieldValues" and name in self.answers:
            value = arguments[2]._obj[0]
            value.nvmlReturn, value.value.uiVal = 0, self.answers[name]
            return 0
        if name not in self.answers:
            return NOT_SUPPORTED
        answer = self.answers[name]
        targets = [a for a in arguments if hasattr(a, "_obj") or isinstance(a, ctypes.Array)]
        for target, value in zip(targets, answer if isinstance(answer, tuple) else (answer,), strict=False):
            if isinstance(target, ctypes.Array):
                target.value = value
            elif isinstance(target._obj, pynvml.c_nvmlMemory_t):
                target._obj.total = value
            elif value is not None:
                target._obj.value = value
        return 0


GPU = {
    "nvmlDeviceGetCount_v2": 1,
    "nvmlDeviceGetHandleByIndex_v2": (None,),
    "nvmlDeviceGetHandleByPciBusId_v2": (None,),
    "nvmlDeviceGetName": b"NVIDIA H100 80GB HBM3",
    "nvmlDeviceGetTotalEnergyConsumption": 7_000_500,
    "nvmlDeviceGetFieldValues": 345_000,
    "nvmlDeviceGetPowerUsage": 300_000,
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetTemperature": 41,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4 | 0x1 | 0x40,
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetMemoryInfo": 85_520_809_984,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetMigMode": (0, 0),
    "nvmlSystemGetDriverVersion": b"580.65.06",
}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver(dict(GPU))
    monkeypatch.setattr(pynvml, "nvmlLib", made)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setattr(nvml, "cuda_bus_id", lambda: None)
    return made


def test_the_counter_and_the_power(driver: Driver) -> None:
    meter, reason = open_nvml()
    assert meter is not None, reason
    reading = meter.read()
    assert (reading.joules, reading.watts) == ({"GPU": 7000.5}, {"GPU": 345.0})
    assert "H100" in meter.name
    assert "MIG" not in meter.includes
    assert driver.open == 1
    meter.close()
    assert driver.open == 0


def test_a_driver_without_instant_power_tells_its_mean(driver: Driver) -> None:
    del driver.answers["nvmlDeviceGetFieldValues"]
    gpu, _ = open_gpu()
    assert gpu is not None
    assert gpu.watts() == 300.0


def test_reasons_by_both_names(driver: Driver) -> None:
    gpu, _ = open_gpu()
    assert gpu is not None
    assert gpu.throttles() == ["power limit", "temperature (hardware)"]  # idle is none
    driver.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x80
    assert gpu.throttles() == ["power limit", "temperature (hardware)"]
    del driver.answers["nvmlDeviceGetCurrentClocksEventReasons"]
    assert gpu.throttles() == ["power brake"]


def test_the_card(driver: Driver) -> None:
    assert gpu_card() == GpuCard(
        name="NVIDIA H100 80GB HBM3", compute_capability="9.0", driver="580.65.06", memory_bytes=85_520_809_984,
        power_limit_w=700.0, highest_clock_mhz=1980, mig=False,
    )  # fmt: skip
    assert driver.open == 0


def test_a_gpu_cut_into_instances_says_that_the_figure_is_the_whole(driver: Driver) -> None:
    driver.answers["nvmlDeviceGetMigMode"] = (1, 1)
    meter, _ = open_nvml()
    assert meter is not None
    assert "All MIG instances" in meter.includes


def test_a_gpu_that_does_not_count_energy(driver: Driver) -> None:
    """As NVML is on a Jetson: it answers its name and nothing else."""
    driver.answers = {name: GPU[name] for name in ("nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2")} | {
        "nvmlDeviceGetName": b"Orin (nvgpu)",
        "nvmlSystemGetDriverVersion": b"595.78",
    }
    meter, reason = open_nvml()
    assert meter is None
    assert "Orin (nvgpu) has no energy counter" in reason
    assert driver.open == 0
    card = gpu_card()
    assert card is not None
    assert (card.name, card.memory_bytes, card.power_limit_w) == ("Orin (nvgpu)", None, None)


def test_several_gpus_and_no_word_from_cuda(driver: Driver) -> None:
    driver.answers["nvmlDeviceGetCount_v2"] = 2
    gpu, reason = open_gpu()
    assert gpu is None
    assert "2 GPUs" in reason
    assert driver.open == 0


def test_cuda_says_which_gpu(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.answers["nvmlDeviceGetCount_v2"] = 2
    monkeypatch.setattr(nvml, "cuda_bus_id", lambda: "0000:41:00.0")
    gpu, reason = open_gpu()
    assert gpu is not None, reason


def test_a_driver_that_is_not_loaded(driver: Driver) -> None:
    driver.answers["nvmlInitWithFlags"] = 9
    gpu, reason = open_gpu()
    assert gpu is None
    assert "Driver Not Loaded" in reason
    assert "Install the GPU's driver" in reason
    assert gpu_card() is None


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpu, reason = open_gpu()
    assert gpu is None
    assert "pip install 'dhox[energy]'" in reason


@pytest.mark.gpu
def test_a_real_gpu_counts_energy() -> None:
    assert cuda_bus_id() is not None
    meter, reason = open_nvml()
    assert meter is not None, reason
    first = meter.read().joules
    assert first is not None
    assert first["GPU"] > 0
    meter.close()
