from __future__ import annotations

import pytest

from dhox.errors import first_line

PLACE = (
    "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:641 std::unique_ptr<onnxruntime::IExecutionProvider> "
    "onnxruntime::python::CreateExecutionProviderInstance(const onnxruntime::SessionOptions&, const std::string&, const "
    "ProviderOptionsMap&, const onnxruntime::PrepackedWeights&, const std::vector<onnxruntime::InlinedString>&) "
)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            PLACE + "[ERROR] [TensorRT] The value for the key 'x' should be 'True' or 'False'.\n\n",
            "[ERROR] [TensorRT] The ",
        ),
        (PLACE + "CUDA_PATH is set but CUDA wasn't able to be loaded. (See the page.)\nmore", "CUDA_PATH is set but "),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model (a) Failed\nmore",
            "[ONNXRuntimeError] : 1 : FAIL : Load model (a) ",
        ),
        ("plain.py: words (so) And more", "plain.py: words (so) And more"),
        ("", "ValueError"),
    ],
)
def test_the_reason_of_a_runtime_is_kept_and_its_source_line_is_not(said: str, kept: str) -> None:
    assert first_line(ValueError(said)).startswith(kept)
