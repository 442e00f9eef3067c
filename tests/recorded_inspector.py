"""What TensorRT's engine inspector wrote on real GPUs, excerpted from public recordings; `synthetic_*` is made by hand.

One layer each; fields that say nothing of types (strides, tactics' numbers) are left out.
"""

from __future__ import annotations

import json

# TensorRT 10.1 (container 24.06), int8, static shapes: github.com/NVIDIA/TensorRT/issues/4020
TENSORRT_10_INT8 = json.loads(r"""{"Layers": [{
  "Name": "resnetv15_stage1_conv2_fwd + resnetv15_stage1_batchnorm2_fwd + resnetv15_stage1_relu1_fwd",
  "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "resnetv15_stage1_activation0", "Location": "Device", "Dimensions": [1,64,56,56],
    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
  "Outputs": [{"Name": "resnetv15_stage1_relu1_fwd", "Location": "Device", "Dimensions": [1,64,56,56],
    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
  "ParameterType": "Convolution", "Weights": {"Type": "Int8", "Count": 36864}, "Bias": {"Type": "Float", "Count": 64},
  "Activation": "RELU", "StreamId": 0,
  "Metadata": "[ONNX Layer: resnetv15_stage1_conv2_fwd]\u001e[ONNX Layer: resnetv15_stage1_batchnorm2_fwd]\u001e[ONNX Layer: resnetv15_stage1_relu1_fwd]"
}]}""")

# TensorRT 8.x on an A100, fp16, no metadata: github.com/NVIDIA/TensorRT, tools/experimental/trt-engine-explorer/
# examples/pytorch/resnet/A100/fp16/resnet.onnx.engine.graph.json
TENSORRT_8_FP16 = json.loads("""{"Layers": [{
  "Name": "Reformatting CopyNode for Input Tensor 0 to Conv_0 + Relu_1",
  "LayerType": "Reformat",
  "Inputs": [{"Name": "input.1", "Location": "Device", "Dimensions": [32,3,224,224],
    "Format/Datatype": "Row major linear FP32"}],
  "Outputs": [{"Name": "Reformatted Input Tensor 0 to Conv_0 + Relu_1", "Location": "Device",
    "Dimensions": [32,3,224,224], "Format/Datatype": "Channel major FP16 format where channel % 4 == 0"}],
  "ParameterType": "Reformat", "Origin": "REFORMAT"
},{
  "Name": "Conv_0 + Relu_1",
  "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "Reformatted Input Tensor 0 to Conv_0 + Relu_1", "Location": "Device",
    "Dimensions": [32,3,224,224], "Format/Datatype": "Channel major FP16 format where channel % 4 == 0"}],
  "Outputs": [{"Name": "onnx::MaxPool_125", "Location": "Device", "Dimensions": [32,64,112,112],
    "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
  "ParameterType": "Convolution", "Weights": {"Type": "Half", "Count": 9408}, "Bias": {"Type": "Half", "Count": 64},
  "Activation": "RELU"
},{
  "Name": "Conv_5 + Add_6 + Relu_7",
  "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "Reformatted Input Tensor 0 to Conv_5 + Add_6 + Relu_7", "Location": "Device",
    "Dimensions": [32,64,56,56], "Format/Datatype": "Channel major FP16 format where channel % 16 == 0"},
   {"Name": "Reformatted Input Tensor 1 to Conv_5 + Add_6 + Relu_7", "Location": "Device",
    "Dimensions": [32,64,56,56], "Format/Datatype": "Channel major FP16 format where channel % 16 == 0"}],
  "Outputs": [{"Name": "input.24", "Location": "Device", "Dimensions": [32,64,56,56],
    "Format/Datatype": "Channel major FP16 format where channel % 16 == 0"}],
  "ParameterType": "Convolution", "Weights": {"Type": "Half", "Count": 36864}, "Bias": {"Type": "Half", "Count": 64},
  "Activation": "RELU"
}]}""")

# Built with LAYER_NAMES_ONLY (TensorRT 10.0.1): github.com/NVIDIA/TensorRT/issues/4048
TENSORRT_10_NAMES_ONLY = json.loads("""{"Layers": [
  "/model/backbone/conv1/conv1_1/conv/Conv + /model/backbone/conv1/conv1_1/act/Relu", "/model/backbone/MaxPool"
], "Bindings": []}""")

# By hand: dynamic shapes without a context show formats as "N/A due to dynamic shapes", weights all the same.
synthetic_dynamic = {
    "Layers": [
        {
            "Name": "node_Conv_1 + node_relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}],
            "Weights": {"Type": "Half", "Count": 9408},
        },
        {"Name": "node_MatMul_2", "LayerType": "gemm", "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]},
    ]
}
