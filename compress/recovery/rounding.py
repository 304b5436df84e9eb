"""Rounding with learned scales: the forward pass of `fake_quantize` bit for bit, the gradients of LSQ and LSQ+.

LSQ: arXiv 1902.08153, LSQ+: 2004.09576. With y = s * clamp(round(x / s), qmin - z, qmax - z) and straight-through
rounding and h = g * [inside], dL/ds = (<h, y - x> + <g - h, y>) / s: where all of x lies inside and on the grid (an
8-bit picture) this is exactly zero, as it must be, because Adam makes full steps of the faintest noise.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def gradient_factor(elements: int, qmax: int) -> float:
    """LSQ's factor on a scale's gradient, 1 / sqrt(n * Qp); n: elements that share the scale (of one sample)."""
    return 1.0 / math.sqrt(max(1, elements) * qmax)


class _RoundTensor(torch.autograd.Function):
    """y of x [N, ...], scale [1], integral zero point [1]; gradients to all three."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, qmin: int, qmax: int) -> Tensor:
        if x.is_cuda:
            y = torch.fake_quantize_per_tensor_affine(x, scale, zero.to(torch.int32), qmin, qmax)
        else:
            # torch's CPU kernel for this is not vectorised: 7.2 ms against 0.55 ms for 1.8 million values on Zen 4.
            shift = float(zero)
            inverse = float(torch.reciprocal(scale))
            y = torch.mul(x, inverse).round_().clamp_(qmin - shift, qmax - shift).mul_(float(scale))
        ctx.save_for_backward(x, y, scale, zero)
        ctx.range = (qmin, qmax)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        (g,) = gradients
        x, y, scale, zero = ctx.saved_tensors
        qmin, qmax = ctx.range
        if x.is_cuda:
            passed = g * ((x > (qmin - zero - 0.5) * scale) & (x < (qmax - zero + 0.5) * scale))
        else:
            low, high = (float((q - zero) * scale) for q in (qmin - 0.5, qmax + 0.5))
            passed = aten.hardtanh_backward(g, x, low, high)
        to_scale = to_zero = None
        if ctx.needs_input_grad[1]:
            factor = gradient_factor(x[0].numel(), qmax)
            inside = _inner(passed, torch.sub(y, x))
            stopped = torch.sub(g, passed)
            to_scale = ((inside + _inner(stopped, y)) / scale).reshape(1) * factor
            if ctx.needs_input_grad[2]:
                to_zero = -stopped.sum().reshape(1) * scale * factor
        return passed, to_scale, to_zero, None, None


class _RoundChannels(torch.autograd.Function):
    """y of a weight, scales and integral zero points [C] along `axis`, or [1]; gradients to all three.

    For GPUs: torch's fused kernel has the host check the zero points in each call, and so waits for the device.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, scale: Tensor, zero: Tensor, axis: int | None, qmin: int, qmax: int, factor: float
    ) -> Tensor:
        shape = [1] * weight.dim()
        if axis is not None:
            shape[axis] = -1
        step, shift = scale.view(shape), zero.view(shape)
        steps = weight * torch.reciprocal(step)
        rounded = torch.round(steps)
        integers = torch.clamp(rounded, qmin - shift, qmax - shift)
        ctx.save_for_backward(steps, integers, rounded == integers, step)
        ctx.factor, ctx.summed = factor, [d for d in range(weight.dim()) if d != axis]
        return integers * step

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor | None, None, None, None, None]:
        (g,) = gradients
        steps, integers, inside, step = ctx.saved_tensors
        passed = g * inside
        to_scale = (g * integers - passed * steps).sum(ctx.summed).reshape(-1) * ctx.factor
        to_zero = None
        if ctx.needs_input_grad[2]:
            to_zero = ((passed - g) * step).sum(ctx.summed).reshape(-1) * ctx.factor
        return passed, to_scale, to_zero, None, None, None, None


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> over all elements, shape []; without copies where both lie alike in memory."""
    if a.stride() != b.stride() or not (a.is_contiguous() or a.is_contiguous(memory_format=torch.channels_last)):
        return torch.dot(a.reshape(-1), b.reshape(-1))
    return torch.dot(a.as_strided((a.numel(),), (1,)), b.as_strided((b.numel(),), (1,)))


def round_activation(x: Tensor, scale: Tensor, zero: Tensor, qmin: int, qmax: int) -> Tensor:
    """Fake-quantise `x` [N, ...], in float32, with a learned scale [1] and a learned, unrounded zero point [1]."""
    settled = torch.clamp(torch.round(zero.detach()), qmin, qmax)
    rounded = settled + (zero - zero.detach()) if zero.requires_grad else settled
    result = _RoundTensor.apply(x.float(), scale, rounded, qmin, qmax)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


def round_weight(weight: Tensor, scale: Tensor, zero: Tensor, axis: int | None, qmin: int, qmax: int) -> Tensor:
    """Fake-quantise a weight with learned scales: [C] along `axis`, or [1].

    `zero` holds integral values in float32; it has a gradient where it needs one.
    """
    factor = gradient_factor(weight.numel() // scale.numel(), qmax)
    if weight.is_cuda:
        result = _RoundChannels.apply(  # type: ignore[no-untyped-call]
            weight, scale, zero, axis, qmin, qmax, factor
        )
        assert isinstance(result, Tensor)
        return result
    if axis is None:
        return torch._fake_quantize_learnable_per_tensor_affine(weight, scale, zero, qmin, qmax, factor)
    return torch._fake_quantize_learnable_per_channel_affine(weight, scale, zero, axis, qmin, qmax, factor)
