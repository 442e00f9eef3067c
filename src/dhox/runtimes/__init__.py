"""What runs a model file: ONNX Runtime, TensorRT engines."""
