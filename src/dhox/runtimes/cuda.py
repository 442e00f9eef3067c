"""The two dozen calls of the CUDA runtime that an engine needs, by ctypes: no wheel to match with a board's CUDA."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from dhox.errors import DhoxError

MAJORS = (13, 12)  # of the CUDA versions that TensorRT 10.3 to 11 is built for
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76  # cudaDevAttrComputeCapability{Major,Minor}
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind
NON_BLOCKING = 1  # cudaStreamNonBlocking
THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal: other threads may go on allocating
OUT_OF_MEMORY, OLD_DRIVER = 2, 35  # cudaErrorMemoryAllocation, cudaErrorInsufficientDriver
# "This leaves the process in an inconsistent state and any further CUDA work will return the same error."
LOST = {226, 700, 702, 710, *range(714, 720), 721, 810, 911}
PROPERTIES = 4096  # bytes; cudaDeviceProp is at most about 1 kB and begins with char name[256]

# Every call and its arguments; all of them answer with a cudaError_t.
CALLS = {
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaGetDeviceProperties": (c_void_p, c_int),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaMalloc": (POINTER(c_void_p), c_size_t),
    "cudaFree": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    # The same in CUDA 11.4 to 13, unlike cudaGraphInstantiate, whose arguments changed with CUDA 12.
    "cudaGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGetLastError": (),
}


@dataclass(frozen=True)
class Gpu:
    """The first visible GPU: its name, and its compute capability as NVIDIA writes it (8.7)."""

    name: str
    compute_capability: str


class NoGpuError(DhoxError):
    """There is no GPU that this process can use."""


@cache
def runtime() -> ctypes.CDLL:
    """The CUDA runtime library: the system's, that of NVIDIA's wheels, or the toolkit's. Raises NoGpuError.

    Of several the first that finds a GPU: one that is newer than the driver loads, and finds none.
    """
    loaded = None
    names = [f"libcudart.so.{major}" for major in MAJORS]
    folders = [Path(folder) / "nvidia" for folder in sys.path if folder]
    places = [path for name in names for folder in folders for path in folder.glob(f"*/lib/{name}")]
    for place in [*names, *map(str, places), *(f"/usr/local/cuda/lib64/{name}" for name in names)]:
        try:
            library = load(place)
        except OSError:
            continue
        loaded = loaded or library
        if library.cudaGetDeviceCount(byref(c_int())) == 0:
            return library
    if loaded is not None:
        return loaded
    raise NoGpuError(
        f"The CUDA runtime ({' or '.join(names)}) is not on this machine.",
        "On a Jetson it comes with JetPack; elsewhere install it with: pip install nvidia-cuda-runtime",
    )


def load(place: str) -> ctypes.CDLL:
    """A CUDA runtime library, with the arguments of its calls. Raises OSError where it does not load."""
    library = ctypes.CDLL(place)
    for name, arguments in CALLS.items():
        getattr(library, name).argtypes = arguments
    library.cudaGetErrorString.argtypes = (c_int,)
    library.cudaGetErrorString.restype = c_char_p
    return library


def call(name: str, *arguments: object) -> None:
    """Call the runtime; raises DhoxError with CUDA's own words where it fails."""
    code = getattr(runtime(), name)(*arguments)
    if code != 0:
        runtime().cudaGetLastError()  # forgotten: another user of this runtime would take it for its own
        words = runtime().cudaGetErrorString(code).decode(errors="replace")
        raise DhoxError(f"CUDA: {name} failed ({words}).", advice_for(code))


def advice_for(code: int) -> str:
    """What to do about a cudaError_t."""
    if code == OUT_OF_MEMORY:
        return "Use a smaller batch, or stop what else runs on the GPU."
    if code in LOST:
        return "The GPU is lost to this process: run the command again, with this model and runner alone."
    if code == OLD_DRIVER:
        return "Update the driver, or install the CUDA runtime that it knows: pip install nvidia-cuda-runtime-cu12"
    return "Check the driver."


def give_back(name: str, what: object) -> None:
    """Call what frees something. Its failure is not told: it repeats an earlier one, whose own words count."""
    if getattr(runtime(), name)(what) != 0:
        runtime().cudaGetLastError()


def gpu() -> Gpu:
    """The GPU that this process uses, device 0 of those that CUDA_VISIBLE_DEVICES leaves. Raises NoGpuError."""
    count = c_int()
    code = runtime().cudaGetDeviceCount(byref(count))
    if code != 0 or count.value == 0:
        words = runtime().cudaGetErrorString(code).decode(errors="replace") if code else "no device"
        elsewhere = "Run this on the machine that has it, with its driver."
        raise NoGpuError(f"CUDA finds no GPU here ({words}).", advice_for(code) if code == OLD_DRIVER else elsewhere)
    properties = ctypes.create_string_buffer(PROPERTIES)
    call("cudaGetDeviceProperties", properties, 0)
    major, minor = c_int(), c_int()
    call("cudaDeviceGetAttribute", byref(major), COMPUTE_MAJOR, 0)
    call("cudaDeviceGetAttribute", byref(minor), COMPUTE_MINOR, 0)
    return Gpu(properties.value.decode(errors="replace"), f"{major.value}.{minor.value}")


def allocate(size: int) -> int:
    """The address of `size` bytes on the device; `free` it."""
    address = c_void_p()
    call("cudaMalloc", byref(address), size)
    assert address.value is not None
    return address.value


def free(address: int) -> None:
    """Give back what `allocate` gave."""
    give_back("cudaFree", address)


def create_stream() -> int:
    """The handle of a stream of its own; `destroy_stream` it."""
    handle = c_void_p()
    call("cudaStreamCreateWithFlags", byref(handle), NON_BLOCKING)
    assert handle.value is not None
    return handle.value


def destroy_stream(stream: int) -> None:
    """Give back what `create_stream` gave."""
    give_back("cudaStreamDestroy", stream)


def synchronize(stream: int) -> None:
    """Wait until all that was put on the stream is done."""
    call("cudaStreamSynchronize", stream)


def to_device(address: int, array: np.ndarray, stream: int) -> None:
    """Copy a C-contiguous host array to the device, in the stream's order; keep the array until it is done."""
    assert array.flags.c_contiguous
    call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, HOST_TO_DEVICE, stream)


def to_host(array: np.ndarray, address: int, stream: int) -> None:
    """Fill a C-contiguous host array from the device, in the stream's order."""
    assert array.flags.c_contiguous
    call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, DEVICE_TO_HOST, stream)


def pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array in page-locked host memory, which the device copies from and to without a detour; `free_pinned` it."""
    address = c_void_p()
    size = int(np.prod(shape)) * dtype.itemsize
    call("cudaHostAlloc", byref(address), size, 0)
    assert address.value is not None
    return np.frombuffer(memoryview((ctypes.c_char * size).from_address(address.value)), dtype).reshape(shape)


def free_pinned(array: np.ndarray) -> None:
    """Give back what `pinned` gave; the array must not be used again."""
    give_back("cudaFreeHost", array.ctypes.data)


def capture(stream: int, enqueue: Callable[[], None]) -> int:
    """What `enqueue` puts on the stream, as an executable CUDA graph; `launch` it and `destroy_graph` it.

    Run the same work once before, so that nothing is allocated meanwhile. Raises what `enqueue` raises, and DhoxError
    in CUDA's own words where the work cannot be captured; the stream can be used again afterwards.
    """
    call("cudaStreamBeginCapture", stream, THREAD_LOCAL)
    graph, executable = c_void_p(), c_void_p()
    try:
        enqueue()
    except BaseException:
        if runtime().cudaStreamEndCapture(stream, byref(graph)) == 0 and graph:
            give_back("cudaGraphDestroy", graph)
        runtime().cudaGetLastError()
        raise
    call("cudaStreamEndCapture", stream, byref(graph))
    try:
        call("cudaGraphInstantiateWithFlags", byref(executable), graph, 0)
    finally:
        give_back("cudaGraphDestroy", graph)
    assert executable.value is not None
    return executable.value


def launch(graph: int, stream: int) -> None:
    """Put an executable graph on the stream."""
    call("cudaGraphLaunch", graph, stream)


def destroy_graph(graph: int) -> None:
    """Give back what `capture` gave."""
    give_back("cudaGraphExecDestroy", graph)
