"""The runtimes that engines are built for, and what their float part executes in."""

from __future__ import annotations

from enum import StrEnum

from bitwright.foundation.errors import UsageError

W4A16 = "w4a16"
"""What a layer executes in whose weights are stored in 4 bits and multiplied in a 16-bit float."""


class Runtime(StrEnum):
    """The software that loads and runs an engine."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    LITERT = "litert"
    TORCH = "torch"
    TENSORRT_RTX = "tensorrt-rtx"
    TENSORRT = "tensorrt"
    QONNX = "qonnx"

    @property
    def compiles(self) -> bool:
        """Whether an engine is compiled from the ONNX file, for one GPU architecture and a range of shapes."""
        return self in {Runtime.TENSORRT_RTX, Runtime.TENSORRT}

    @property
    def has_fp8(self) -> bool:
        """Whether engines with layers in fp8 are built for it."""
        return self.compiles or self is Runtime.TORCH

    @property
    def has_weight_blocks(self) -> bool:
        """Whether engines with layers whose weights alone are quantised, in blocks, are built for it."""
        return self.compiles

    @property
    def builds_anywhere(self) -> bool:
        """Whether engines are built on any machine, whatever the processor or GPU that they are for."""
        return self.compiles or self is Runtime.QONNX

    @property
    def float_precisions(self) -> tuple[FloatPrecision, ...]:
        """What the float part of its engines can execute in, the one to prefer first; every runtime has fp32."""
        if self.compiles or self is Runtime.TORCH:
            return FloatPrecision.FP16, FloatPrecision.BF16, FloatPrecision.FP32
        if self is Runtime.OPENVINO:
            return FloatPrecision.BF16, FloatPrecision.FP32
        return (FloatPrecision.FP32,)

    @property
    def tells_node_times(self) -> bool:
        """Whether `Engine.time_calls` tells the time of each node; LiteRT's package for Python has no profiler."""
        return self in {Runtime.ONNXRUNTIME, Runtime.OPENVINO}

    @property
    def why_not_timed(self) -> str | None:
        """Why a time of its engines would say nothing of the device, in words; None where it says what it takes."""
        if self is Runtime.QONNX:
            return (
                "a QONNX file is for FPGA flows such as FINN and hls4ml, and the time of the reference executor that "
                "runs it here says nothing of the device"
            )
        return None

    def require_timed(self) -> None:
        """UsageError where engines of the runtime are not to be timed."""
        if self.why_not_timed is not None:
            raise UsageError(f"{self} engines are not timed: {self.why_not_timed}")


class FloatPrecision(StrEnum):
    """What the part of a network that is not quantised executes in."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
