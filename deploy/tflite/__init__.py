"""Compiling exported ONNX files to TFLite files, with the scales and integers that they have."""

from deploy.tflite.compile import compile_file
from deploy.tflite.lowering import JOIN

__all__ = ["JOIN", "compile_file"]
