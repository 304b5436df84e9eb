"""Affine quantisation: one definition of scale, zero point, rounding and range, for every bit width and form.

q = clamp(round(x / scale) + zero_point, qmin, qmax), x' = (q - zero_point) * scale. Rounding is half to even, as in
ONNX QuantizeLinear; zero is always representable exactly, so padding and pruned weights cost nothing. Where values are
stored as E4M3 in place of integers, round goes to the nearest value of that type and the zero point is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor


class Granularity(StrEnum):
    """How many values share one scale."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    BLOCK = "block"
    """Some neighbouring inputs of each row of a matrix [rows, inputs]; weights only."""


class Encoding(StrEnum):
    """What a quantised value is stored as."""

    INTEGER = "integer"
    E4M3 = "e4m3"
    """fp8 with 4 bits of exponent and 3 of mantissa, no infinities: FLOAT8E4M3FN in ONNX (arXiv 2209.05433)."""


E4M3_MAX = 448
"""Largest finite value of E4M3."""


class QuantFormat(BaseModel):
    """The form of a quantised tensor. Signed and symmetric for weights, unsigned and asymmetric for x86 activations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: int = Field(ge=2, le=8)
    granularity: Granularity
    symmetric: bool
    signed: bool
    reduce_range: bool = Field(default=False, description="leave one bit unused, for CPUs whose int8 products saturate")
    encoding: Encoding = Field(default=Encoding.INTEGER, exclude_if=lambda encoding: encoding is Encoding.INTEGER)
    block: int | None = Field(default=None, ge=2, exclude_if=lambda block: block is None)

    @model_validator(mode="after")
    def _blocks_have_a_size(self) -> Self:
        if (self.granularity is Granularity.BLOCK) != (self.block is not None):
            raise ValueError("block is the number of values per scale: give it with granularity block, and only then")
        return self

    @model_validator(mode="after")
    def _e4m3_has_one_form(self) -> Self:
        if self.is_fp8 and (self.bits != 8 or not self.symmetric or not self.signed or self.reduce_range):
            raise ValueError("E4M3 is 8 bits, symmetric, signed and of full range")
        return self

    @property
    def is_fp8(self) -> bool:
        """Whether values are stored as E4M3."""
        return self.encoding is Encoding.E4M3

    @property
    def used_bits(self) -> int:
        """Bits that the value range really uses."""
        return self.bits - int(self.reduce_range and self.bits == 8)

    @property
    def qmin(self) -> int:
        """Smallest stored value. Symmetric signed ranges are narrow (-127 ... 127), so that negation is exact."""
        if self.is_fp8:
            return -E4M3_MAX
        if not self.signed:
            return 0
        return int(self.symmetric) - int(2 ** (self.used_bits - 1))

    @property
    def qmax(self) -> int:
        """Largest stored value."""
        if self.is_fp8:
            return E4M3_MAX
        return int(2 ** (self.used_bits - int(self.signed)) - 1)


@dataclass(frozen=True)
class QuantParams:
    """Scale (float32) and zero point (int32) of a tensor: shape [] per tensor, [C] per channel along `axis`.

    In blocks of `block` inputs of a matrix [rows, inputs]: shape [rows, inputs / block], `axis` 1.
    """

    scale: Tensor
    zero_point: Tensor
    axis: int | None = None
    block: int | None = None

    def broadcast(self, dims: int) -> tuple[Tensor, Tensor]:
        """Scale and zero point reshaped so that they broadcast against a tensor of `dims` dimensions."""
        if self.axis is None:
            return self.scale, self.zero_point
        if self.block is not None:
            return self.scale.repeat_interleave(self.block, 1), self.zero_point.repeat_interleave(self.block, 1)
        shape = [1] * dims
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


SMALLEST_SCALE = 2.0**-100
"""Keeps an all-zero channel finite; far above float32's subnormal range so that runtimes may flush denormals."""


def params_from_range(low: Tensor, high: Tensor, form: QuantFormat, axis: int | None = None) -> QuantParams:
    """Scale and zero point that cover [low, high], widened to contain zero exactly. `low`, `high`: shape [] or [C]."""
    low = torch.clamp(low.to(torch.float64), max=0.0)
    high = torch.clamp(high.to(torch.float64), min=0.0)
    if form.symmetric:
        reach = torch.maximum(-low, high)
        if form.signed:
            scale = torch.clamp(reach / form.qmax, min=SMALLEST_SCALE)
            zero = torch.zeros_like(scale)
        else:
            zero = torch.full_like(reach, 2 ** (form.used_bits - 1))
            scale = torch.clamp(reach / (form.qmax - zero), min=SMALLEST_SCALE)
    else:
        scale = torch.clamp((high - low) / (form.qmax - form.qmin), min=SMALLEST_SCALE)
        zero = torch.clamp(torch.round(form.qmin - low / scale), form.qmin, form.qmax)
    return QuantParams(scale.to(torch.float32), zero.to(torch.int32), axis)


def container(form: QuantFormat) -> torch.dtype:
    """The dtype that stores a format."""
    if form.is_fp8:
        return torch.float8_e4m3fn
    return torch.int8 if form.signed else torch.uint8


def nearest(scaled: Tensor, zero_point: Tensor, form: QuantFormat) -> Tensor:
    """The value that a format stores for each of `scaled`, which is x / scale; half to even, saturating. Same dtype."""
    if form.is_fp8:
        return torch.clamp(scaled, form.qmin, form.qmax).to(torch.float8_e4m3fn).to(scaled.dtype)
    return torch.clamp(torch.round(scaled) + zero_point, form.qmin, form.qmax)


def encode(x: Tensor, params: QuantParams, form: QuantFormat) -> Tensor:
    """What is stored of `x`: int8, uint8 or float8_e4m3fn, of x's shape."""
    scale, zero = params.broadcast(x.dim())
    return nearest(x / scale, zero, form).to(container(form))


def quantize(x: Tensor, params: QuantParams, form: QuantFormat) -> Tensor:
    """Integers of `x`, as int32, in [qmin, qmax]; ValueError for a format that has none."""
    if form.is_fp8:
        raise ValueError("E4M3 does not store integers; use encode")
    scale, zero = params.broadcast(x.dim())
    return nearest(x / scale, zero, form).to(torch.int32)


def dequantize(q: Tensor, params: QuantParams) -> Tensor:
    """Real values of integers or of E4M3 values, float32."""
    scale, zero = params.broadcast(q.dim())
    if q.dtype == torch.float8_e4m3fn:
        return q.to(torch.float32) * scale
    return (q.to(torch.int32) - zero).to(torch.float32) * scale


def fake_quantize(x: Tensor, params: QuantParams, form: QuantFormat) -> Tensor:
    """Round `x` through what is stored, float32; integers by torch's fused kernels.

    Gradient: straight through, 0 outside; none in blocks.
    """
    if form.is_fp8:
        scale, zero = params.broadcast(x.dim())
        inside = torch.clamp(x / scale, form.qmin, form.qmax)
        # Exact: the rounded value is 0 or within a factor of two of what it stands for.
        return (inside + (nearest(inside, zero, form) - inside).detach()) * scale
    if params.block is not None:
        return dequantize(encode(x, params, form), params)
    if params.axis is None:
        return torch.fake_quantize_per_tensor_affine(x, params.scale, params.zero_point, form.qmin, form.qmax)
    return torch.fake_quantize_per_channel_affine(x, params.scale, params.zero_point, params.axis, form.qmin, form.qmax)


W8 = QuantFormat(bits=8, granularity=Granularity.CHANNEL, symmetric=True, signed=True)
"""int8 weights per output channel, symmetric: what every CPU and GPU runtime executes."""

A8 = QuantFormat(bits=8, granularity=Granularity.TENSOR, symmetric=False, signed=False)
"""uint8 activations per tensor, asymmetric: what x86 runtimes execute."""

W4_BLOCKS = QuantFormat(bits=4, granularity=Granularity.BLOCK, symmetric=True, signed=True, block=128)
"""4-bit weights of a matrix with a scale for every 128 inputs of a row: what GPUs store, and multiply in fp16."""

FP8_WEIGHTS = QuantFormat(bits=8, granularity=Granularity.CHANNEL, symmetric=True, signed=True, encoding=Encoding.E4M3)
"""E4M3 weights with one scale for each output channel."""

FP8_ACTIVATIONS = FP8_WEIGHTS.model_copy(update={"granularity": Granularity.TENSOR})
"""E4M3 activations with one scale for the tensor."""
