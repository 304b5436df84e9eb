"""Quantisation noise: what rounding would add to an operand, as noise that costs one fused addition.

The recommended form adds sum_b q_b xi_b with xi_b = scale * Delta_b * eps_b. Gaussian noises add up to one Gaussian of
standard deviation scale * sqrt(sum_b (q_b Delta_b)^2), so one draw serves any number of bit widths, and nothing but
that draw is kept for the backward pass, where only the mixture q asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from search.quantnas.quant_settings import NoiseKind, NoiseRange, QuantSettings
from search.quantnas.quantisers import FLOAT_BITS, first_step

TABLE_ELEMENTS = 1 << 22


class NoiseTable:
    """Gaussian numbers made once from a seed; a draw is a stretch of them from a random place on.

    The numbers of one draw are independent. Two draws share numbers only where their stretches overlap, at other
    positions of other tensors. `reserve` before the first draw makes room for the largest tensor.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._elements = TABLE_ELEMENTS
        self._numbers: Tensor | None = None

    def reserve(self, elements: int) -> None:
        """Make room for draws of as many elements; the table is then at least twice as long."""
        if 2 * elements > self._elements:
            self._elements, self._numbers = 2 * elements, None

    def draw(self, like: Tensor) -> Tensor:
        """Numbers of the shape and layout of `like`; the place is drawn from torch's generator of the CPU."""
        if self._numbers is None or self._numbers.device != like.device:
            generator = torch.Generator().manual_seed(self.seed)
            self._numbers = torch.randn(self._elements, generator=generator).to(like.device)
        count = like.numel()
        self.reserve(count)
        if self._numbers is None:
            return self.draw(like)
        # Whole vectors of 16 floats: an unaligned stretch is slower to read.
        at = 16 * int(torch.randint((len(self._numbers) - count) // 16 + 1, ()))
        numbers: Tensor = self._numbers.narrow(0, at, count).to(like.dtype)
        if like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
            n, c, h, w = like.shape
            return numbers.view(n, h, w, c).permute(0, 3, 1, 2)
        return numbers.view(like.shape)


def steps_of(x: Tensor, bits: tuple[int, ...], settings: QuantSettings, *, signed: bool) -> Tensor:
    """The step Delta_b of each bit width for a tensor, [B], a constant; 0 for 32 bits. `signed`: weights."""
    x = x.detach()
    if settings.range is NoiseRange.MINMAX:
        low, high = torch.aminmax(x)
        return (high - low).float() * _shares(bits, x.device)
    mean = x.float().abs().mean()
    steps = [torch.zeros_like(mean) if b == FLOAT_BITS else first_step(mean, 2 ** (b - int(signed)) - 1) for b in bits]
    return torch.stack(steps)


def stacked_steps(weights: Sequence[Tensor], bits: tuple[int, ...], settings: QuantSettings) -> Tensor:
    """`steps_of` of several weights, [weights, B]."""
    if not weights:
        return torch.zeros(0, len(bits))
    if settings.range is not NoiseRange.MINMAX:
        return torch.stack([steps_of(weight, bits, settings, signed=True) for weight in weights])
    with torch.no_grad():
        ends = [torch.aminmax(weight) for weight in weights]
        ranges = torch.stack([end for pair in ends for end in pair]).view(-1, 2)
        return (ranges[:, 1] - ranges[:, 0])[:, None] * _shares(bits, ranges.device)


def _shares(bits: tuple[int, ...], device: torch.device) -> Tensor:
    key = (bits, device)
    if key not in _SHARES:
        _SHARES[key] = torch.tensor([0.0 if b == FLOAT_BITS else 1 / (2**b - 1) for b in bits], device=device)
    return _SHARES[key]


_SHARES: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
"""1 / (2^b - 1) for each bit width, made once: it is asked for hundreds of times in a step."""


def merged_std(q: Tensor, steps: Tensor, scale: float) -> Tensor:
    """scale * sqrt(sum_b (q_b Delta_b)^2) over the last axis; differentiable in q, also where all steps are 0."""
    norm: Tensor = torch.linalg.vector_norm(q * steps, dim=-1)
    return scale * norm


class Scalar(NamedTuple):
    """A number for autograd and, on a CPU, for kernels too: there, fused kernels take it as an argument."""

    tensor: Tensor
    value: float | None


def scalars(x: Tensor) -> list[Scalar]:
    """The numbers of a vector. On a GPU the host does not wait for their values."""
    values = [None] * len(x) if x.is_cuda else x.detach().tolist()
    return [Scalar(tensor, value) for tensor, value in zip(x.unbind(0), values, strict=True)]


class _AddScaled(torch.autograd.Function):
    """x + std * eps with std a scalar: gradient 1 to x, <g, eps> to std, none to eps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: Tensor, std: Tensor, value: float | None) -> Tensor:
        ctx.save_for_backward(eps)
        return _plus(x, eps, Scalar(std, value))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, Tensor, None]:
        (g,) = gradients
        return g, None, inner(g, ctx.saved_tensors[0]), None


class _ScaledNoisyWeight(torch.autograd.Function):
    """p * (w + std * eps): noise and the operation's share of the mixture in one small tensor."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, eps: Tensor, std: Tensor, p: Tensor, values: tuple[float | None, ...]) -> Tensor:
        ctx.save_for_backward(w, eps, std, p)
        noisy = _plus(w, eps, Scalar(std, values[0]))
        return noisy.mul_(p if values[1] is None else values[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        (g,) = gradients
        w, eps, std, p = ctx.saved_tensors
        with_noise = inner(g, eps)
        to_w = g * p if ctx.needs_input_grad[0] else None
        return to_w, None, with_noise * p, torch.addcmul(inner(g, w), with_noise, std), None


def _plus(x: Tensor, eps: Tensor, std: Scalar) -> Tensor:
    if std.value is None:
        return torch.addcmul(x, eps, std.tensor.to(x.dtype))
    return torch.add(x, eps, alpha=std.value)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> over all elements, shape [], float32; without copies where both lie alike in memory."""
    alike = a.stride() == b.stride() and (a.is_contiguous() or a.is_contiguous(memory_format=torch.channels_last))
    if alike and a.dtype == b.dtype:
        return torch.dot(a.as_strided((a.numel(),), (1,)), b.as_strided((b.numel(),), (1,))).float()
    return torch.dot(a.reshape(-1).float(), b.reshape(-1).float())


def add_noise(x: Tensor, eps: Tensor, std: Scalar) -> Tensor:
    """`x` + `std` * `eps`. Where the mixture is fixed it is one addition, and nothing is kept for the gradient."""
    if not std.tensor.requires_grad:
        return _plus(x, eps, std)
    result = _AddScaled.apply(x, eps, *std)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


def scaled_noisy_weight(w: Tensor, eps: Tensor, std: Scalar, p: Scalar | None) -> Tensor:
    """`p` * (`w` + `std` * `eps`); no `p`: 1."""
    if p is None:
        return add_noise(w, eps, std)
    if not (std.tensor.requires_grad or p.tensor.requires_grad):
        noisy = _plus(w, eps, std)
        return noisy * (p.tensor if p.value is None else p.value)
    result = _ScaledNoisyWeight.apply(w, eps, std.tensor, p.tensor, (std.value, p.value))  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


@dataclass(frozen=True)
class NoisyOperand:
    """A tensor with its steps and, where draws are merged, the one draw that all its readers share.

    Sharing is what rounding does: every operation that reads a tensor at a bit width meets the same error.
    """

    value: Tensor
    steps: Tensor
    eps: Tensor | None

    def noisy(self, q: Tensor, p: Tensor, settings: QuantSettings, std: Scalar | None = None) -> Tensor:
        """The operand of an operation with mixture `q` [B] of bit widths and share `p` [] of the layer.

        `std`: the merged standard deviation, where it is known already.
        """
        if self.eps is not None:
            if std is None:
                (std,) = scalars(merged_std(q, self.steps, settings.noise_scale).reshape(1))
            return add_noise(self.value, self.eps, std)
        if settings.form.value == "additive":
            return self.value + sum(q[b] * self._noise(b, settings) for b in range(len(q)))
        return authors_operand(self.value, [self._noise(b, settings) for b in range(len(q))], q, p)

    def _noise(self, b: int, settings: QuantSettings) -> Tensor:
        if settings.kind is NoiseKind.UNIFORM:
            return self.steps[b] * (torch.rand_like(self.value) - 0.5)
        return settings.noise_scale * self.steps[b] * torch.randn_like(self.value)


def authors_operand(x: Tensor, noises: list[Tensor], q: Tensor, p: Tensor) -> Tensor:
    """The authors' form: c x + sum_b a_b stopgrad(x + xi_b) with c = 1 / (B + 1) and a_b = p q_b / (p + c)."""
    c = 1 / (len(noises) + 1)
    shares = p * q / (p + c)
    return c * x + sum(shares[b] * (x + xi).detach() for b, xi in enumerate(noises))
