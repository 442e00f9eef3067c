"""TensorRT engines, and folders for neighbouring tools."""
