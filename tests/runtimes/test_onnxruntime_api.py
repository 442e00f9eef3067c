"""Which device ONNX Runtime computes on: asked by running a node, not by reading a list."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest
from refusals import refuses

import dhox
from dhox.bench.runners.runner import choose_device
from dhox.runtimes.onnxruntime_api import PROVIDERS, default_device, why_not


@pytest.fixture
def lists_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel for GPUs on a machine without one: CUDA is compiled in and does not start."""
    if why_not(PROVIDERS["cuda"]) is None:
        pytest.skip("CUDA is here")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDERS["cuda"], PROVIDERS["cpu"]])


def test_a_node_runs_on_the_cpu() -> None:
    assert why_not(PROVIDERS["cpu"]) is None


def test_auto_is_the_cpu_where_cuda_is_listed_and_does_not_start(
    lists_cuda: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert default_device() == "cpu"
    said = capfd.readouterr().err
    assert "CUDAExecutionProvider does not start here" in said
    assert "dhox doctor" in said


def test_a_model_loads_where_cuda_does_not_start(lists_cuda: None, line: Path) -> None:
    model = dhox.load(line / "runs/tiny/export")  # type: ignore[operator]
    assert model(sorted((line / "data/test").rglob("*.png"))[:2]).shape == (2, 4)


def test_cuda_that_does_not_start_is_refused_where_it_is_asked_for(lists_cuda: None) -> None:
    with refuses("--device cuda", "lists it", at="bench.runners.runner.choose_device", fix="--device tensorrt"):
        choose_device("cuda", [])
