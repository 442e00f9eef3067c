"""The calls of the CUDA runtime, held against the real library and against NVIDIA's own bindings."""

from __future__ import annotations

import numpy as np
import pytest

from dhox import cuda
from dhox.errors import DhoxError


@pytest.fixture(autouse=True)
def library() -> None:
    try:
        cuda.runtime()
    except cuda.NoGpuError:
        pytest.skip("no CUDA runtime library")


def test_every_call_is_in_the_library() -> None:
    for name in [*cuda.CALLS, "cudaGetErrorString"]:
        assert getattr(cuda.runtime(), name)


def test_numbers_are_those_of_nvidias_bindings() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    assert runtime.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor == cuda.COMPUTE_MAJOR
    assert runtime.cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor == cuda.COMPUTE_MINOR
    assert runtime.cudaMemcpyKind.cudaMemcpyHostToDevice == cuda.HOST_TO_DEVICE
    assert runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost == cuda.DEVICE_TO_HOST
    assert runtime.cudaStreamNonBlocking == cuda.NON_BLOCKING
    assert runtime.cudaError_t.cudaErrorMemoryAllocation == cuda.OUT_OF_MEMORY
    for name in cuda.CALLS:
        assert callable(getattr(runtime, name))


def test_no_gpu_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # read when this process first asks
    try:
        cuda.gpu()
        pytest.skip("this process has a GPU already")
    except cuda.NoGpuError:
        pass
    with pytest.raises(
        cuda.NoGpuError, match=r"CUDA finds no GPU here .*on the machine that has it, with its driver\.$"
    ):
        cuda.gpu()
    with pytest.raises(DhoxError, match=r"cudaStreamCreateWithFlags failed \(.+\)\. Check the driver"):
        cuda.create_stream()


@pytest.mark.gpu
def test_bytes_come_back_from_the_device() -> None:
    array = np.arange(1000, dtype=np.float32)
    back = np.zeros_like(array)
    assert float(cuda.gpu().compute_capability) >= 5
    stream, address = cuda.create_stream(), cuda.allocate(array.nbytes)
    cuda.to_device(address, array, stream)
    cuda.to_host(back, address, stream)
    cuda.synchronize(stream)
    cuda.free(address)
    cuda.destroy_stream(stream)
    np.testing.assert_array_equal(back, array)
    with pytest.raises(DhoxError, match="smaller batch"):
        cuda.allocate(1 << 60)
