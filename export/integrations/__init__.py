"""Folders and scripts for the tools that take an export: DeepStream, Triton, plain Python."""
