"""The runtimes that engines are built for, and what their float part executes in."""

from __future__ import annotations

from enum import StrEnum


class Runtime(StrEnum):
    """The software that loads and runs an engine."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    LITERT = "litert"
    TENSORRT_RTX = "tensorrt-rtx"
    TENSORRT = "tensorrt"

    @property
    def compiles(self) -> bool:
        """Whether an engine is compiled from the ONNX file, for one GPU architecture and a range of shapes."""
        return self in {Runtime.TENSORRT_RTX, Runtime.TENSORRT}


class FloatPrecision(StrEnum):
    """What the part of a network that is not quantised executes in."""

    FP32 = "fp32"
    BF16 = "bf16"
