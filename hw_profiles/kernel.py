"""Kernel: one call that a runtime really executes, after it has fused and placed the operators of a network."""

from __future__ import annotations

import math

from pydantic import Field

from hw_profiles.model import Part

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "int4": 0.5, "int32": 4, "int64": 8, "bool": 1}


class TensorType(Part):
    """Shape and element type of a tensor that a kernel reads or writes."""

    shape: tuple[int, ...]
    dtype: str = Field(description="int8 (signed or not), bf16, fp16, fp32, int32 ...")
    layout: str = Field(
        default="",
        description="order of the dimensions in memory as the runtime names it (abcd: NCHW, acdb: NHWC); empty: plain",
    )

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """Bytes of all values; an element type that is not known counts four."""
        return self.elements * _BYTES.get(self.dtype, 4)


class Kernel(Part):
    """What decides a kernel's time. Two calls with equal kernels cost the same, be `layers` what they may.

    `inputs` are activations, not weights. `fused` are the exported operators that were merged into the call behind the
    one that names it, sorted.
    """

    op: str = Field(description="the runtime's own name of the operator: Convolution, Eltwise, Reorder ...")
    precision: str = Field(description="what it computes in: int8, bf16, fp32 ...")
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    window: tuple[int, int] | None = Field(default=None, description="height, width of a convolution's kernel")
    stride: tuple[int, int] | None = None
    groups: int | None = None
    macs: int = Field(default=0, ge=0, description="multiply-accumulates of the call")
    weight_elements: int = Field(default=0, ge=0)
    fused: tuple[str, ...] = ()
    mode: str = Field(
        default="", description="of a resize: nearest, linear or cubic, which differ in time many times over"
    )
    layers: tuple[str, ...] = Field(default=(), description="layers of the plan that it computes; not part of the key")
    implementation: str = Field(default="", description="the runtime's name of the code that ran; not part of the key")

    @property
    def key(self) -> str:
        """Canonical JSON of all that decides the time: equal for kernels that cost the same."""
        return self.model_copy(update={"layers": (), "implementation": ""}).model_dump_json()

    @property
    def bytes(self) -> float:
        """Bytes read and written, weights at the width of the precision included."""
        weights = self.weight_elements * _BYTES.get(self.precision, 4)
        return sum(tensor.bytes for tensor in (*self.inputs, *self.outputs)) + weights
