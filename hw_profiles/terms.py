"""The words that a profile is written in: data types, operators, runtimes, and how far a number is to be believed."""

from __future__ import annotations

import re
from enum import StrEnum


class DType(StrEnum):
    """A number format, as stored or as executed."""

    INT2 = "int2"
    INT3 = "int3"
    INT4 = "int4"
    UINT4 = "uint4"
    INT5 = "int5"
    INT6 = "int6"
    INT7 = "int7"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    FP8 = "fp8"
    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def bits(self) -> int:
        """Width in bits."""
        return int(re.sub(r"\D", "", self.value))

    @property
    def is_integer(self) -> bool:
        """Whether values are integers with a scale."""
        return "int" in self.value


class Op(StrEnum):
    """An operator that a rule can name; ANY stands for all of them, named here or not."""

    ANY = "*"
    CONV = "conv"
    CONVTRANSPOSE = "convtranspose"
    LINEAR = "linear"
    MATMUL = "matmul"
    ADD = "add"
    MUL = "mul"
    CONCAT = "concat"
    POOL = "pool"
    RELU = "relu"
    LEAKY_RELU = "leaky_relu"
    PRELU = "prelu"
    SIGMOID = "sigmoid"
    HARDSIGMOID = "hardsigmoid"
    HARDSWISH = "hardswish"
    RESIZE = "resize"
    PIXEL_SHUFFLE = "pixel_shuffle"


class Granularity(StrEnum):
    """How many values share one scale."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    BLOCK = "block"


class DeviceKind(StrEnum):
    """What sort of processor a profile describes."""

    CPU = "cpu"
    GPU = "gpu"
    NPU = "npu"
    MCU = "mcu"
    FPGA = "fpga"


class RuntimeEngine(StrEnum):
    """The software that loads and runs an engine on a device."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    LITERT = "litert"
    TORCH = "torch"
    EXECUTORCH = "executorch"
    NCNN = "ncnn"
    QNN = "qnn"
    VELA = "vela"
    EDGETPU = "edgetpu"
    QONNX = "qonnx"


class EmulationKind(StrEnum):
    """How a width that the device lacks is carried out."""

    CONTAINER = "container"
    """The narrow integers are stored in the wider type and run at exactly its speed."""
    DEQUANTISED = "dequantised"
    """Values are turned to float while the network runs, then computed in float."""
    SIZE_ONLY = "size_only"
    """The file may be smaller; the arithmetic is that of the wider type."""


class Status(StrEnum):
    """How far a number is to be believed."""

    MEASURED = "measured"
    """Timed or read by us on such a device."""
    PUBLISHED = "published"
    """Printed by the vendor, read there or on a page that quotes it; the source says which."""
    DERIVED = "derived"
    """Computed by us from published figures; the source shows the arithmetic."""
    UNVERIFIED = "unverified"
    """Seen or estimated somewhere, and not confirmed."""
