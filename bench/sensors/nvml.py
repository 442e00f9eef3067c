"""NVIDIA's management library (nvidia-ml-py, module pynvml): energy, power, clocks and throttling of a discrete GPU.

On Jetson boards it loads, and answers NotSupported to nearly all of this: there the rails are the source (hwmon.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType
from typing import Any

from dhox.artefacts.machine import GpuCard
from dhox.bench.sensors.meter import Reading
from dhox.errors import DhoxError, require

RAIL = "GPU"
POWER_INSTANT = 186  # NVML_FI_DEV_POWER_INSTANT, milliwatts; the older call is a one-second mean on many GPUs
# Clocks event reasons (nvml.h) that slow a GPU that has work; idle, application clocks and display settings do not.
THROTTLES = {
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "temperature (software)",
    0x40: "temperature (hardware)",
    0x80: "power brake",
}


class Gpu:
    """The GPU that this process computes on: device 0 of those that CUDA_VISIBLE_DEVICES leaves.

    Methods answer None where the GPU or its driver does not support the question.
    """

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        self.nvml = nvml
        self.handle = handle

    def ask(self, question: str, *arguments: Any) -> Any:
        """The answer of pynvml's `question`; None where this GPU has none, or this pynvml does not know it."""
        call: Callable[..., Any] | None = getattr(self.nvml, question, None)
        if call is None:
            return None
        try:
            return call(self.handle, *arguments)
        except self.nvml.NVMLError:
            return None

    def name(self) -> str | None:
        """As the driver calls it."""
        return text(self.ask("nvmlDeviceGetName"))

    def joules(self) -> float | None:
        """Energy since the driver was loaded (Volta and newer)."""
        millijoules = self.ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3

    def watts(self) -> float | None:
        """Power now; on GPUs that do not tell it, the driver's own mean over up to a second."""
        fields = self.ask("nvmlDeviceGetFieldValues", [POWER_INSTANT])
        if fields is not None and fields[0].nvmlReturn == self.nvml.NVML_SUCCESS and fields[0].value.uiVal:
            return float(fields[0].value.uiVal) / 1e3
        milliwatts = self.ask("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1e3

    def clock_mhz(self) -> int | None:
        """Clock of the multiprocessors."""
        return self.ask("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM)

    def memory_clock_mhz(self) -> int | None:
        """Clock of the memory."""
        return self.ask("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_MEM)

    def highest_clock_mhz(self) -> int | None:
        """The multiprocessors' highest clock."""
        return self.ask("nvmlDeviceGetMaxClockInfo", self.nvml.NVML_CLOCK_SM)

    def temperature_c(self) -> int | None:
        """Temperature of the chip."""
        found = self.ask("nvmlDeviceGetTemperatureV", self.nvml.NVML_TEMPERATURE_GPU)
        if found is None:  # an older driver; this call goes with CUDA 14
            found = self.ask("nvmlDeviceGetTemperature", self.nvml.NVML_TEMPERATURE_GPU)
        return found

    def throttles(self) -> list[str]:
        """What slows the GPU now, in words; drivers before 535 know the question by its old name."""
        bits = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:
            bits = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return [reason for bit, reason in THROTTLES.items() if (bits or 0) & bit]

    def shared(self) -> bool:
        """Whether the GPU is cut into instances (MIG), so that power and clocks are those of all of them."""
        mode = self.ask("nvmlDeviceGetMigMode")
        return mode is not None and mode[0] == 1

    def close(self) -> None:
        """Give the library back."""
        self.nvml.nvmlShutdown()


def text(answer: str | bytes | None) -> str | None:
    """Older pynvml answers bytes."""
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer


def cuda_bus_id() -> str | None:
    """The PCI address of CUDA's device 0 in this process, from the driver library; None without one.

    CUDA numbers GPUs by speed and after CUDA_VISIBLE_DEVICES, NVML all of them by address: only this tells them apart.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, address = ctypes.c_int(), ctypes.create_string_buffer(32)
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if cuda.cuDeviceGetPCIBusId(address, len(address), device):
        return None
    return address.value.decode()


def open_gpu() -> tuple[Gpu | None, str]:
    """The GPU that this process computes on; close it. None and the reason with what to do where there is none."""
    try:
        nvml = require("pynvml", "energy")
    except DhoxError as err:
        return None, str(err)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as err:
        return (None, f"NVIDIA's management library does not answer ({err}). Install the GPU's driver")
    try:
        address = cuda_bus_id()
        if address is not None:
            return Gpu(nvml, nvml.nvmlDeviceGetHandleByPciBusId(address.encode())), ""
        count = nvml.nvmlDeviceGetCount()
        if count == 1:
            return Gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(0)), ""
        reason = f"the driver lists {count} GPUs, and CUDA does not say which of them it uses. Check the driver"
    except nvml.NVMLError as err:
        reason = f"NVIDIA's management library does not find the GPU that CUDA uses ({err}). Check the driver"
    nvml.nvmlShutdown()
    return None, reason


def gpu_card() -> GpuCard | None:
    """The GPU for the device card; None without one or without nvidia-ml-py."""
    gpu, _ = open_gpu()
    if gpu is None:
        return None
    capability = gpu.ask("nvmlDeviceGetCudaComputeCapability")
    memory = gpu.ask("nvmlDeviceGetMemoryInfo")
    limit = gpu.ask("nvmlDeviceGetEnforcedPowerLimit")
    card = GpuCard(
        name=gpu.name() or "NVIDIA GPU",
        compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
        driver=text(gpu.nvml.nvmlSystemGetDriverVersion()),
        memory_bytes=None if memory is None else int(memory.total),
        power_limit_w=None if limit is None else limit / 1e3,
        highest_clock_mhz=gpu.highest_clock_mhz(),
        mig=gpu.shared(),
    )
    gpu.close()
    return card


class NvmlMeter:
    """The GPU's energy counter, and its power for the trace; `meter.Meter`."""

    rails: tuple[str, ...] = (RAIL,)
    total: tuple[str, ...] = (RAIL,)
    estimate = False
    error_w: float | None = None
    error = (
        "NVML: the vendor states about 5 %; on A100 and H100 the sensor sees a quarter of the time (arXiv 2312.02741), "
        "so 5 to 10 % for work that changes within 100 ms; the counter steps every 20 to 100 ms"
    )

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.name = f"NVML energy counter of the {gpu.name()}"
        whole = " All MIG instances of the GPU are in it." if gpu.shared() else ""
        self.includes = f"the whole GPU board with its memory; not the host's processor, memory and fans.{whole}"

    def read(self) -> Reading:
        """Joules since the driver was loaded, and watts now. Raises OSError."""
        joules, watts = self.gpu.joules(), self.gpu.watts()
        if joules is None:
            raise OSError(f"{self.name} does not answer")
        return Reading({RAIL: joules}, None if watts is None else {RAIL: watts})

    def close(self) -> None:
        """Give the library back."""
        self.gpu.close()


def open_nvml() -> tuple[NvmlMeter | None, str]:
    """The GPU's meter, or None and the reason with what to do."""
    gpu, reason = open_gpu()
    if gpu is None:
        return None, reason
    if gpu.joules() is None:
        name = gpu.name()
        gpu.close()
        return None, f"{name} has no energy counter (GPUs before Volta, virtual GPUs). Measure on another GPU"
    return NvmlMeter(gpu), ""
