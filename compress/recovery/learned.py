"""What is trained: weights, scales, zero points and biases that compute exactly what the engine's integers will."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.compressed import QuantizedWeight
from compress.quantizers import QuantFormat, QuantParams, container
from compress.recovery.rounding import round_activation, round_weight
from compress.soft_rounding import BIAS_LIMIT, TunedBias, through


class LearnedWeight(nn.Module):
    """A weight learned in units of its first integer step, and its scales, learned as factors exp(`log_factor`).

    Starts at exactly the integers of `weight`; `real` is the weight behind them, `pruned` what must stay at zero.
    """

    start: Tensor
    unit: Tensor
    zero_point: Tensor
    free: Tensor

    def __init__(self, weight: QuantizedWeight, real: Tensor, pruned: Tensor) -> None:
        super().__init__()
        self.form, self.axis = weight.form, weight.params.axis
        step, zero = weight.params.broadcast(real.dim())
        integers = (weight.integers.to(torch.int32) - zero).to(torch.float32)
        self.latent = nn.Parameter(torch.clamp(real / step, integers - 0.49, integers + 0.49).contiguous())
        self.log_factor = nn.Parameter(torch.zeros(weight.params.scale.numel()))
        self.register_buffer("start", weight.params.scale.reshape(-1).clone())
        self.register_buffer("unit", step.clone())
        self.register_buffer("zero_point", weight.params.zero_point.reshape(-1).to(torch.float32))
        self.register_buffer("free", ~(pruned & (integers == 0)))
        self.masked = not bool(self.free.all())

    def scale(self) -> Tensor:
        """The present scales, [C] or [1], differentiable."""
        return self.start * torch.exp(self.log_factor)

    def real(self) -> Tensor:
        """The weight before rounding, the layer's shape."""
        latent = self.latent * self.free if self.masked else self.latent
        return latent * self.unit

    def forward(self) -> Tensor:
        """The float32 weight that the present integers stand for."""
        form = self.form
        return round_weight(self.real(), self.scale(), self.zero_point, self.axis, form.qmin, form.qmax)

    def quantized(self) -> QuantizedWeight:
        """The present integers."""
        with torch.no_grad():
            scale = self.scale()
            zero = self.zero_point.to(torch.int32)
            scalar = self.axis is None
            params = QuantParams(scale[0] if scalar else scale, zero[0] if scalar else zero, self.axis)
            steps, zeros = params.broadcast(self.latent.dim())
            integers = torch.round(self.forward() / steps) + zeros
        return QuantizedWeight(integers.to(container(self.form)), params, self.form)


class LearnedActivation(nn.Module):
    """An activation quantiser with a learned scale and, where the format is asymmetric, a learned zero point."""

    start: Tensor

    def __init__(self, params: QuantParams, form: QuantFormat) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("start", params.scale.reshape(1).clone())
        self.log_factor = nn.Parameter(torch.zeros(1))
        zero = params.zero_point.reshape(1).to(torch.float32)
        self.zero_point = nn.Parameter(zero, requires_grad=not form.symmetric)

    def scale(self) -> Tensor:
        """The present scale, [1], differentiable."""
        return self.start * torch.exp(self.log_factor)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantise `x`, [N, ...]."""
        return round_activation(x, self.scale(), self.zero_point, self.form.qmin, self.form.qmax)

    def params(self) -> QuantParams:
        """The present scale and zero point, shape []."""
        zero = torch.clamp(torch.round(self.zero_point.detach()), self.form.qmin, self.form.qmax)
        return QuantParams(self.scale().detach().reshape(()), zero.reshape(()).to(torch.int32))


class LearnedBias(nn.Module):
    """A learned bias as one layer call adds it: int32 at the scale of the call's input times that of its weight."""

    def __init__(self, bias: TunedBias, activation: LearnedActivation, weight: LearnedWeight) -> None:
        super().__init__()
        self.bias = bias
        # Held in tuples: they are children of the network, and must not appear a second time below each bias.
        self.activation, self.weight = (activation,), (weight,)

    def forward(self) -> Tensor:
        """The float32 bias that the present integers stand for, [C]."""
        bias: Tensor = self.bias()
        with torch.no_grad():
            weight_scale = self.weight[0].scale()
            scale = (self.activation[0].scale().reshape(()) * weight_scale).expand_as(bias)
            integers = torch.clamp(torch.round(bias.double() / scale.double()), -BIAS_LIMIT, BIAS_LIMIT)
            exact = integers.to(torch.int32).to(torch.float32) * scale
        return through(exact, bias)
