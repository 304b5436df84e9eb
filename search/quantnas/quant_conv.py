"""QuantConv: a bias-free convolution behind its activation quantiser, at one bit width or at a mixture of several."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.quantnas.operand_noise import (
    NoiseTable,
    NoisyOperand,
    Scalar,
    merged_std,
    scalars,
    scaled_noisy_weight,
    steps_of,
)
from search.quantnas.quant_settings import Mode, NoiseRange, QuantSettings
from search.quantnas.quantisers import FLOAT_BITS, BitQuantisers, activation_format, round_over_range, weight_format
from workloads.super_resolution.models.searched import ConvSpec


def convolve(x: Tensor, weight: Tensor, spec: ConvSpec) -> Tensor:
    """The convolution itself."""
    return F.conv2d(x, weight, None, spec.stride, spec.pads, spec.dilation, spec.groups)


class QuantConv(nn.Module):
    """One weight for all `bits`. Direct and separate mode own registered quantisers for each; noise mode needs none.

    With a single bit width, calling the module is the quantised convolution itself: the fixed parts of a supernet and
    all of the network found are made of these.
    """

    def __init__(self, spec: ConvSpec, bits: tuple[int, ...], settings: QuantSettings) -> None:
        super().__init__()
        self.spec, self.bits, self.settings = spec, bits, settings
        self.weight = nn.Parameter(torch.empty(spec.weight_shape))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        rounds = settings.mode in {Mode.DIRECT, Mode.SEPARATE}
        self.quantisers = nn.ModuleList(
            BitQuantisers(self.weight, b, settings.act_quant) for b in bits if rounds
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """At the only bit width, [N, inputs, H, W] to [N, outputs, ...]."""
        if not len(self.quantisers):
            return convolve(F.relu(x), self.weight, self.spec)
        rounded, weight = self.quantisers[0](x, self.weight)
        return convolve(rounded, weight, self.spec)

    def mixed(self, x: Tensor, q: Tensor, p: Tensor | None) -> Tensor:
        """Direct mode: sum_b q_b of both operands' roundings, then one convolution, times `p`."""
        rounded = [quantiser(x, self.weight) for quantiser in self.quantisers]
        if len(rounded) == 1:
            active, weight = rounded[0]
        else:
            active = _weighted([pair[0] for pair in rounded], q)
            weight = _weighted([pair[1] for pair in rounded], q)
        return convolve(active, weight if p is None else weight * p, self.spec)

    def noisy(self, operand: NoisyOperand, q: Tensor, p: Scalar, scaled: bool, table: NoiseTable | None,
              stds: tuple[Scalar | None, Scalar | None] = (None, None)) -> Tensor:  # fmt: skip
        """Noise mode in training: noise on both operands; `scaled`: times the share `p` as well.

        `stds`: merged standard deviations of the activation's and the weight's noise, where they are known already.
        """
        settings, weight = self.settings, self.weight
        active = operand.noisy(q, p.tensor, settings, stds[0])
        if settings.merged:
            std = stds[1]
            if std is None:
                steps = steps_of(weight, self.bits, settings, signed=True)
                (std,) = scalars(merged_std(q, steps, settings.noise_scale).reshape(1))
            eps = torch.randn_like(weight) if table is None else table.draw(weight)
            return convolve(active, scaled_noisy_weight(weight, eps, std, p if scaled else None), self.spec)
        steps = steps_of(weight, self.bits, settings, signed=True)
        noisy = NoisyOperand(weight, steps, None).noisy(q, p.tensor, settings)
        return convolve(active, noisy * p.tensor if scaled else noisy, self.spec)

    def rounded(self, active: Tensor, q: Tensor, p: Tensor | None) -> Tensor:
        """Noise mode in evaluation: true rounding with the steps that the noise imitates, mixed as in direct mode."""
        mixed = _weighted([self._round(active, b, signed=False) for b in self.bits], q)
        weight = _weighted([self._round(self.weight, b, signed=True) for b in self.bits], q)
        return convolve(mixed, weight if p is None else weight * p, self.spec)

    def _round(self, x: Tensor, bits: int, *, signed: bool) -> Tensor:
        if self.settings.range is NoiseRange.MINMAX or bits == FLOAT_BITS:
            return round_over_range(x, bits)
        step = steps_of(x, (bits,), self.settings, signed=signed)[0].to(x.dtype)
        form = weight_format(bits) if signed else activation_format(bits)
        return torch.clamp(torch.round(x / step), form.qmin, form.qmax) * step

    def plain(self, active: Tensor, p: Tensor | None) -> Tensor:
        """Float mode: `active` is behind its ReLU."""
        return convolve(active, self.weight if p is None else self.weight * p, self.spec)


def _weighted(parts: list[Tensor], q: Tensor) -> Tensor:
    """sum_b q_b parts_b; a part whose share is exactly 0 takes no part, so that a one-hot mixture is exact.

    In training on a GPU no value is read: the host would wait in each convolution.
    """
    if not q.requires_grad and not (q.is_cuda and torch.is_grad_enabled()):
        shares = q.detach().tolist()
        if 1.0 in shares:
            return parts[shares.index(1.0)]
    total = parts[0] * q[0]
    for b in range(1, len(parts)):
        total = torch.addcmul(total, parts[b], q[b])
    return total
