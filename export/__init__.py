"""Stage 2: fold the heads and write ONNX files, with the evidence, into an export directory."""
