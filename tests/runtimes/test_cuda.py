"""The calls of the CUDA runtime, held against the real library and against NVIDIA's own bindings."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess

import numpy as np
import pytest
from refusals import refuses

from dhox.runtimes import cuda


@pytest.fixture
def library() -> None:
    try:
        cuda.runtime()
    except cuda.NoGpuError:
        pytest.skip("no CUDA runtime library")


@pytest.mark.usefixtures("library")
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
    assert runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal == cuda.THREAD_LOCAL
    for name in cuda.CALLS:
        assert callable(getattr(runtime, name.removesuffix("WithFlags") if "Instantiate" in name else name))


@pytest.mark.usefixtures("library")
def test_no_gpu_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # read when this process first asks
    try:
        cuda.gpu()
        pytest.skip("this process has a GPU already")
    except cuda.NoGpuError:
        pass
    with refuses("CUDA", at="runtimes.cuda.gpu", fix="driver", kind=cuda.NoGpuError):
        cuda.gpu()
    with refuses("cudaStreamCreateWithFlags", at="runtimes.cuda.call"):
        cuda.create_stream()


@pytest.mark.usefixtures("library")
def test_pinned_memory_and_capture_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    try:
        cuda.gpu()
        pytest.skip("this process has a GPU already")
    except cuda.NoGpuError:
        pass
    with refuses("cudaHostAlloc", at="runtimes.cuda.call"):
        cuda.pinned((2, 3), np.dtype(np.float32))
    with refuses("cudaStreamBeginCapture", at="runtimes.cuda.call"):
        cuda.capture(0, lambda: None)


# A runtime that only writes down what it is asked: `synthetic_cudart`, compiled here. It can fail at one call.
SYNTHETIC = r"""
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
char journal[4096]; const char *broken = "";
static int note(const char *text, unsigned long long a, unsigned long long b) {
    char line[128]; snprintf(line, sizeof line, "%s(%llu, %llu)\n", text, a, b); strcat(journal, line);
    return strcmp(text, broken) ? 0 : 901;
}
const char *said(void) { return journal; }
void begin(const char *fails) { journal[0] = 0; broken = strdup(fails); }
const char *cudaGetErrorString(int code) { return "operation would make the capture invalid"; }
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaGetDeviceProperties(void *p, int d) { return 0; }
int cudaDeviceGetAttribute(int *v, int a, int d) { *v = 8; return 0; }
int cudaMalloc(void **p, size_t n) { *p = malloc(n); return 0; }
int cudaFree(void *p) { free(p); return 0; }
int cudaMemcpyAsync(void *a, void *b, size_t n, int k, void *s) { memcpy(a, b, n); return 0; }
int cudaStreamCreateWithFlags(void **s, unsigned f) { *s = (void *)7; return 0; }
int cudaStreamSynchronize(void *s) { return note("synchronize", (size_t)s, 0); }
int cudaStreamDestroy(void *s) { return 0; }
int cudaHostAlloc(void **p, size_t n, unsigned f) { *p = malloc(n); return note("host_alloc", n, f); }
int cudaFreeHost(void *p) { free(p); return note("free_host", 0, 0); }
int cudaStreamBeginCapture(void *s, int mode) { return note("begin", (size_t)s, mode); }
int cudaStreamEndCapture(void *s, void **g) { *g = (void *)0x700000000011; return note("end", (size_t)s, 0); }
int cudaGraphInstantiateWithFlags(void **e, void *g, unsigned long long f) {
    *e = (void *)0x700000000022; return note("instantiate", (size_t)g, f); }
int cudaGraphLaunch(void *e, void *s) { return note("launch", (size_t)e, (size_t)s); }
int cudaGraphDestroy(void *g) { return note("destroy", (size_t)g, 0); }
int cudaGraphExecDestroy(void *e) { return note("destroy_exec", (size_t)e, 0); }
int cudaGetLastError(void) { return note("forget", 0, 0); }
"""
STREAM, GRAPH, EXECUTABLE = 0x7000000000FF, 0x700000000011, 0x700000000022  # 64-bit: none may be cut


@pytest.fixture(scope="module")
def synthetic_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("cudart")
    (folder / "cudart.c").write_text(SYNTHETIC)
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", folder / "cudart.so", folder / "cudart.c"], check=True)
    return cuda.load(str(folder / "cudart.so"))


@pytest.fixture
def synthetic(synthetic_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    synthetic_library.said.restype = ctypes.c_char_p
    synthetic_library.begin(b"")
    monkeypatch.setattr(cuda, "runtime", lambda: synthetic_library)
    return synthetic_library


def calls(library: ctypes.CDLL) -> list[str]:
    return library.said().decode().split("\n")[:-1]


def test_capture_asks_for_its_calls_in_order(synthetic: ctypes.CDLL) -> None:
    graph = cuda.capture(STREAM, lambda: cuda.synchronize(STREAM))
    assert graph == EXECUTABLE
    cuda.launch(graph, STREAM)
    cuda.destroy_graph(graph)
    assert calls(synthetic) == [
        f"begin({STREAM}, {cuda.THREAD_LOCAL})",
        f"synchronize({STREAM}, 0)",
        f"end({STREAM}, 0)",
        f"instantiate({GRAPH}, 0)",
        f"destroy({GRAPH}, 0)",
        f"launch({EXECUTABLE}, {STREAM})",
        f"destroy_exec({EXECUTABLE}, 0)",
    ]


@pytest.mark.parametrize("broken", ["synchronize", "end", "instantiate"])
def test_a_capture_that_fails_is_ended_and_forgotten(synthetic: ctypes.CDLL, broken: str) -> None:
    synthetic.begin(broken.encode())
    with refuses("operation would make the capture invalid", at="runtimes.cuda.call"):
        cuda.capture(STREAM, lambda: cuda.synchronize(STREAM))
    names = [re.sub(r"\(.*", "", line) for line in calls(synthetic)]
    assert names.count("end") == 1
    assert "forget" in names[names.index(broken) :]
    assert ("destroy" in names) == (broken != "end")  # a graph that was made is given back


def test_pinned_memory_is_an_array_of_that_shape(synthetic: ctypes.CDLL) -> None:
    array = cuda.pinned((3, 5), np.dtype(np.float16))
    array[:] = np.arange(15).reshape(3, 5)
    assert (array.shape, array.dtype, array.flags.c_contiguous) == ((3, 5), np.float16, True)
    assert array.sum() == 105
    cuda.free_pinned(array)
    assert calls(synthetic) == ["host_alloc(30, 0)", "free_host(0, 0)"]


@pytest.mark.gpu
def test_a_copy_in_a_graph_is_replayed() -> None:
    source, target = cuda.pinned((1000,), np.dtype(np.float32)), cuda.pinned((1000,), np.dtype(np.float32))
    stream, address = cuda.create_stream(), cuda.allocate(source.nbytes)

    def there_and_back() -> None:
        cuda.to_device(address, source, stream)
        cuda.to_host(target, address, stream)

    target[:] = -1
    graph = cuda.capture(stream, there_and_back)
    cuda.synchronize(stream)
    assert (target == -1).all()
    for value in (1, 2):
        source[:] = value
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        assert (target == value).all()
    cuda.destroy_graph(graph)
    cuda.free(address)
    cuda.free_pinned(source)
    cuda.free_pinned(target)
    cuda.destroy_stream(stream)


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
    with refuses("cudaMalloc", at="runtimes.cuda.call", fix="batch"):
        cuda.allocate(1 << 60)
