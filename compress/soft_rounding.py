"""Trainable stand-ins for integer weights, activation quantisers and biases.

In the forward pass they compute exactly what the integers do; gradients reach the real values behind the integers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.compressed import QuantizedWeight
from compress.quantizers import QuantFormat, QuantParams, container

BIAS_LIMIT = 2.0**31 - 1


def through(exact: Tensor, smooth: Tensor) -> Tensor:
    """The value of `exact` with the gradient of `smooth` (straight-through estimator)."""
    return exact.detach() + (smooth - smooth.detach())


def round_through(x: Tensor, low: int, high: int) -> Tensor:
    """Integers nearest to `x` in [low, high]; the gradient passes wherever x is inside the range."""
    inside = torch.clamp(x, low - 0.5, high + 0.5)
    return through(torch.clamp(torch.round(x), low, high), inside)


class RoundedWeight(nn.Module):
    """A weight whose real values are learned in units of the integer step; starts at exactly the given integers.

    Weights at the zero point where `pruned` is true (padding, sparsity) stay there; all have the layer's shape.
    """

    scale: Tensor
    zero_point: Tensor
    free: Tensor

    def __init__(self, weight: QuantizedWeight, real: Tensor, pruned: Tensor) -> None:
        super().__init__()
        self.weight = weight
        scale, zero = weight.params.broadcast(real.dim())
        integers = weight.integers.to(torch.float32)
        latent = torch.clamp(real / scale + zero, integers - 0.49, integers + 0.49)
        self.latent = nn.Parameter(latent.contiguous())
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", zero.to(torch.float32))
        self.register_buffer("free", ~pruned | (weight.integers != zero))

    def forward(self) -> Tensor:
        """The float32 weight that the present integers stand for."""
        form = self.weight.form
        latent = torch.where(self.free, self.latent, self.latent.detach())
        return (round_through(latent, form.qmin, form.qmax) - self.zero_point) * self.scale

    def quantized(self) -> QuantizedWeight:
        """The present integers."""
        form = self.weight.form
        integers = torch.clamp(torch.round(self.latent.detach()), form.qmin, form.qmax).to(container(form))
        return QuantizedWeight(integers, self.weight.params, form)


class LearnedQuantizer(nn.Module):
    """An activation quantiser whose scale and zero point are learned, with gradients as in LSQ+ (fused in torch).

    The scale is learned as a factor exp(`log_factor`); the zero point only where the format is asymmetric.
    """

    start: Tensor
    zero_start: Tensor

    def __init__(self, params: QuantParams, form: QuantFormat) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("start", params.scale.reshape(1).clone())
        self.log_factor = nn.Parameter(torch.zeros(1))
        zero = params.zero_point.reshape(1).to(torch.float32)
        self.register_buffer("zero_start", zero)
        self.zero_point = nn.Parameter(zero.clone(), requires_grad=not form.symmetric)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantise `x`, any shape."""
        scale = self.scale()
        zero = round_through(self.zero_point, self.form.qmin, self.form.qmax)
        return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, self.form.qmin, self.form.qmax, 1.0)

    def scale(self) -> Tensor:
        """The present scale, [1], differentiable."""
        return self.start * torch.exp(self.log_factor)

    def params(self) -> QuantParams:
        """The present scale and zero point, shape []."""
        scale = self.scale().detach().reshape(())
        zero = torch.clamp(torch.round(self.zero_point.detach()), self.form.qmin, self.form.qmax)
        return QuantParams(scale, zero.reshape(()).to(torch.int32))


class TunedBias(nn.Module):
    """A bias that is learned as an offset in `unit`s [C]; channels whose unit is zero stay as they are."""

    bias: Tensor
    unit: Tensor

    def __init__(self, bias: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("bias", bias.clone())
        self.register_buffer("unit", unit.clone())
        self.offset = nn.Parameter(torch.zeros_like(bias))

    def forward(self) -> Tensor:
        """The present bias, [C]."""
        return self.bias + self.offset * self.unit


class IntegerBias(nn.Module):
    """A learned bias as one layer call adds it: int32 at the scale of the call's input times that of its weight."""

    weight_scale: Tensor

    def __init__(self, bias: TunedBias, quantizer: LearnedQuantizer, weight_scale: Tensor) -> None:
        super().__init__()
        self.bias = bias
        # The quantiser stays a child of the network only: its values belong to the block that first reads the tensor.
        self.quantizer = (quantizer,)
        self.register_buffer("weight_scale", weight_scale.clone())

    def forward(self) -> Tensor:
        """The float32 bias that the present integers stand for, [C]."""
        bias = self.bias()
        scale = (self.quantizer[0].scale().detach().reshape(()) * self.weight_scale).expand_as(bias)
        integers = torch.clamp(torch.round(bias.double() / scale.double()), -BIAS_LIMIT, BIAS_LIMIT).to(torch.int32)
        return through(integers.to(torch.float32) * scale, bias)
