from __future__ import annotations

import pytest

from dhox.errors import first_line

PLACE = (
    "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:641 std::unique_ptr<onnxruntime::IExecutionProvider> "
    "onnxruntime::python::CreateExecutionProviderInstance(const onnxruntime::SessionOptions&, const std::string&, const "
    "ProviderOptionsMap&, const onnxruntime::PrepackedWeights&, const std::vector<onnxruntime::InlinedString>&) "
)


LOADED = (
    "[ONNXRuntimeError] : 1 : FAIL : Load model from /runs/a/model.onnx failed:/onnxruntime_src/onnxruntime/core/graph/"
    "model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&, const onnxruntime::"
    "IOnnxRuntimeOpSchemaRegistryList*, const onnxruntime::logging::Logger&, const onnxruntime::ModelOptions&) "
    "Unsupported model IR version: 99, max supported IR version: 14\n"
)
OF_A_TEMPLATE = (
    "/onnxruntime_src/include/onnxruntime/core/framework/op_kernel_context.h:42 const T* onnxruntime::"
    "OpKernelContext::Input(int) const [with T = onnxruntime::Tensor] Missing Input: image"
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
        (
            LOADED,
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /runs/a/model.onnx failed:Unsupported model IR version: "
            "99, max supported IR version: 14",
        ),
        (OF_A_TEMPLATE, "Missing Input: image"),
        ("", "ValueError"),
    ],
)
def test_the_reason_of_a_runtime_is_kept_and_its_source_line_is_not(said: str, kept: str) -> None:
    assert first_line(ValueError(said)).startswith(kept)


def test_of_a_long_line_the_end_is_kept() -> None:
    said = f"Load model failed: {'x::y(' * 200} no end of this signature: 3 is no opset"
    assert len(first_line(ValueError(said))) == 300
    assert first_line(ValueError(said)).startswith("Load model failed: x::y(")
    assert first_line(ValueError(said)).endswith("no end of this signature: 3 is no opset")
    assert first_line(ValueError("y" * 300)) == "y" * 300
