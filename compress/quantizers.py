"""Affine quantisation: one definition of scale, zero point, rounding and range, for every bit width and form.

q = clamp(round(x / scale) + zero_point, qmin, qmax), x' = (q - zero_point) * scale. Rounding is half to even, as in
ONNX QuantizeLinear; zero is always representable exactly, so padding and pruned weights cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class Granularity(StrEnum):
    """How many values share one scale."""

    TENSOR = "tensor"
    CHANNEL = "channel"


class QuantFormat(BaseModel):
    """The form of a quantised tensor. Signed and symmetric for weights, unsigned and asymmetric for x86 activations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: int = Field(ge=2, le=8)
    granularity: Granularity
    symmetric: bool
    signed: bool
    reduce_range: bool = Field(default=False, description="leave one bit unused, for CPUs whose int8 products saturate")

    @property
    def used_bits(self) -> int:
        """Bits that the value range really uses."""
        return self.bits - int(self.reduce_range and self.bits == 8)

    @property
    def qmin(self) -> int:
        """Smallest integer. Symmetric signed ranges are narrow (-127 ... 127), so that negation is exact."""
        if not self.signed:
            return 0
        return int(self.symmetric) - int(2 ** (self.used_bits - 1))

    @property
    def qmax(self) -> int:
        """Largest integer."""
        return int(2 ** (self.used_bits - int(self.signed)) - 1)


@dataclass(frozen=True)
class QuantParams:
    """Scale (float32) and zero point (int32) of a tensor: shape [] per tensor, [C] per channel along `axis`."""

    scale: Tensor
    zero_point: Tensor
    axis: int | None = None

    def broadcast(self, dims: int) -> tuple[Tensor, Tensor]:
        """Scale and zero point reshaped so that they broadcast against a tensor of `dims` dimensions."""
        if self.axis is None:
            return self.scale, self.zero_point
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


def quantize(x: Tensor, params: QuantParams, form: QuantFormat) -> Tensor:
    """Integers of `x`, as int32, in [qmin, qmax]."""
    scale, zero = params.broadcast(x.dim())
    return torch.clamp(torch.round(x / scale) + zero, form.qmin, form.qmax).to(torch.int32)


def dequantize(q: Tensor, params: QuantParams) -> Tensor:
    """Real values of integers, float32."""
    scale, zero = params.broadcast(q.dim())
    return (q - zero).to(torch.float32) * scale


def fake_quantize(x: Tensor, params: QuantParams, form: QuantFormat) -> Tensor:
    """Round `x` through its integers, float32, by torch's fused kernels. Gradient: straight through, 0 outside."""
    if params.axis is None:
        return torch.fake_quantize_per_tensor_affine(x, params.scale, params.zero_point, form.qmin, form.qmax)
    return torch.fake_quantize_per_channel_affine(x, params.scale, params.zero_point, params.axis, form.qmin, form.qmax)


W8 = QuantFormat(bits=8, granularity=Granularity.CHANNEL, symmetric=True, signed=True)
"""int8 weights per output channel, symmetric: what every CPU and GPU runtime executes."""

A8 = QuantFormat(bits=8, granularity=Granularity.TENSOR, symmetric=False, signed=False)
"""uint8 activations per tensor, asymmetric: what x86 runtimes execute."""
