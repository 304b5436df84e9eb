"""Custom operators that stand for the quantisers of ONNX files in a graph that is about to be exported.

In eager mode they compute exactly what the exported operators compute, so an exported graph can also be run in torch.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("bitwright::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """x -> `zero_point`'s dtype -> float32. `scale`: [], float32; `zero_point`: [], int8, uint8, or E4M3 (0)."""
    if zero_point.dtype.is_floating_point:
        limit = torch.finfo(zero_point.dtype).max
        return torch.clamp(x / scale, -limit, limit).to(zero_point.dtype).to(torch.float32) * scale
    limits = torch.iinfo(zero_point.dtype)
    zero = zero_point.to(torch.float32)
    return (torch.clamp(torch.round(x / scale) + zero, limits.min, limits.max) - zero) * scale


@quantize_dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("bitwright::dequantize", mutates_args=())
def dequantize_constant(q: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Stored constant -> float32 along `axis`. `scale`, `zero_point`: [C]; the zero point has q's dtype."""
    shape = [1] * q.dim()
    shape[axis] = -1
    return (q.to(torch.float32) - zero_point.to(torch.float32).reshape(shape)) * scale.reshape(shape)


@dequantize_constant.register_fake
def _(q: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty(q.shape, dtype=torch.float32, device=q.device)


@torch.library.custom_op("bitwright::dequantize_blocks", mutates_args=())
def dequantize_blocks(q: Tensor, scale: Tensor, block: int) -> Tensor:
    """Stored constant [rows, inputs] -> float32. `scale`: [rows, inputs / block]; the zero point is 0."""
    return q.to(torch.float32) * scale.repeat_interleave(block, 1)


@dequantize_blocks.register_fake
def _(q: Tensor, scale: Tensor, block: int) -> Tensor:
    return torch.empty(q.shape, dtype=torch.float32, device=q.device)


@torch.library.custom_op("bitwright::quant", mutates_args=())
def quant(x: Tensor, scale: Tensor, zero_point: Tensor, bits: Tensor, signed: bool, narrow: bool) -> Tensor:
    """QONNX's Quant: x / scale + zero_point, cut to the range of `bits`, rounded half to even, and back; float32.

    All but `x` are float32 and broadcast against it; `bits`: []. A narrow range lacks its smallest signed or its
    largest unsigned integer.
    """
    width = int(bits.item())
    low = int(narrow) - 2 ** (width - 1) if signed else 0
    high = 2 ** (width - 1) - 1 if signed else 2**width - 1 - int(narrow)
    return (torch.round(torch.clamp(x / scale + zero_point, low, high)) - zero_point) * scale


@quant.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, bits: Tensor, signed: bool, narrow: bool) -> Tensor:
    return torch.empty_like(x)
