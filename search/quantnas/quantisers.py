"""Quantisers with learned or fixed steps, for the network found and for the direct mode of a search.

LSQ (arXiv 1902.08153): s * round(clip(x / s, n, p)), step s learned with its gradient scaled by 1 / sqrt(n p). HWGQ
(arXiv 1702.00953): fixed steps that suit the positive half of a unit Gaussian. Rounding and gradients are those of
`compress.recovery.rounding`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from compress.quantizers import SMALLEST_SCALE, Granularity, QuantFormat, fake_quantize, params_from_range
from compress.recovery.rounding import round_activation, round_weight
from compress.statistics import drawn
from search.quantnas.quant_settings import ActQuant

FLOAT_BITS = 32
STEP_CANDIDATES = 60
MEASURED_VALUES = 1 << 16
"""Activations that a step is measured on, at random positions, beside the largest one."""
LEAST_LIMIT = 1e-4
"""Largest activation that a step stands for at least, where an input is 0 throughout."""
HWGQ_STEPS = {
    1: 1.05765, 2: 0.63564, 3: 0.37206, 4: 0.21306, 5: 0.12210, 6: 0.06934, 7: 0.03846, 8: 0.0203006, 16: 9.7148e-5,
}  # fmt: skip
"""Steps of the authors' code; those of 5, 6 and 7 bits, which it lacks, are interpolated in the logarithm."""


def weight_format(bits: int) -> QuantFormat:
    """Weights: per output channel, zero point 0, the full signed range -2^(b-1) ... 2^(b-1) - 1."""
    return QuantFormat(bits=bits, granularity=Granularity.CHANNEL, symmetric=False, signed=True)


def activation_format(bits: int) -> QuantFormat:
    """Activations: per tensor, zero point 0, 0 ... 2^b - 1."""
    return QuantFormat(bits=bits, granularity=Granularity.TENSOR, symmetric=False, signed=False)


def first_step(mean: Tensor, largest: int) -> Tensor:
    """The step that LSQ starts from, 2 mean |x| / sqrt(largest integer); never 0."""
    return torch.clamp(2 * mean / math.sqrt(largest), min=SMALLEST_SCALE)


def best_step(x: Tensor, form: QuantFormat) -> Tensor:
    """The step with the least squared error of each row of `x` [rows, values], of a geometric grid; [rows], never 0.

    LSQ's own first step is coarser, for values spread evenly over a range sqrt(qmax) times: 16 times at 8 bits.
    """
    ends = torch.clamp(x.abs().amax(1), min=SMALLEST_SCALE * form.qmax) / form.qmax
    best, least = ends, torch.full_like(ends, torch.inf)
    for place in range(STEP_CANDIDATES):
        step = ends * 10 ** (-place / STEP_CANDIDATES)
        rounded = torch.clamp(torch.round(x / step[:, None]), form.qmin, form.qmax) * step[:, None]
        error = (rounded - x).square().sum(1)
        best, least = torch.where(error < least, step, best), torch.minimum(error, least)
    return best


class LsqWeight(nn.Module):
    """Weights rounded with a learned step for each output channel. The logarithm is learned: a step stays positive,
    and Adam, whose steps do not depend on the gradient's size, changes all steps by alike factors.

    It starts as LSQ does; `measure` sets the best steps of a weight.
    """

    zero: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.form = weight_format(bits)
        with torch.no_grad():
            start = first_step(weight.abs().flatten(1).mean(1), self.form.qmax)
        self.log_step = nn.Parameter(start.log())
        self.register_buffer("zero", torch.zeros(len(start)), persistent=False)
        self.measuring = False

    def step(self) -> Tensor:
        """The present steps, [C]."""
        return torch.exp(self.log_step)

    def measure(self, weight: Tensor) -> None:
        """Set the steps from a weight."""
        with torch.no_grad():
            self.log_step.copy_(best_step(weight.flatten(1), self.form).log())

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, [C, ...]."""
        if self.measuring:
            self.measure(weight)
        return round_weight(weight, self.step(), self.zero, 0, self.form.qmin, self.form.qmax)


class LsqActivation(nn.Module):
    """Non-negative activations rounded with one learned step; what is below 0 becomes 0, so that it is also the ReLU.

    `measure` sets the step from the next input.
    """

    zero: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.form = activation_format(bits)
        self.log_step = nn.Parameter(torch.tensor(math.log(HWGQ_STEPS[bits])))
        self.register_buffer("zero", torch.zeros(1), persistent=False)
        self.measuring = False

    def step(self) -> Tensor:
        """The present step, []."""
        return torch.exp(self.log_step)

    def measure(self, x: Tensor) -> None:
        """Set the step from an input."""
        with torch.no_grad():
            values = torch.relu(x.detach().float())
            sample = drawn(values, MEASURED_VALUES, 0)
            if len(sample) < values.numel():
                sample = torch.cat([sample, values.amax().reshape(1)])
            step = best_step(sample[None], self.form)[0]
            self.log_step.copy_(torch.clamp(step, min=LEAST_LIMIT / self.form.qmax).log())

    def forward(self, x: Tensor) -> Tensor:
        """The rounded input, [N, ...]."""
        if self.measuring:
            self.measure(x)
        return round_activation(x, self.step().reshape(1), self.zero, self.form.qmin, self.form.qmax)


class HwgqActivation(nn.Module):
    """Non-negative activations rounded with a fixed step."""

    fixed: Tensor
    zero: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.form = activation_format(bits)
        self.register_buffer("fixed", torch.tensor(HWGQ_STEPS[bits]))
        self.register_buffer("zero", torch.zeros(1), persistent=False)

    def step(self) -> Tensor:
        """The step, []."""
        return self.fixed

    def forward(self, x: Tensor) -> Tensor:
        """The rounded input, [N, ...]. Gradient: 1 inside the range, 0 outside."""
        return round_activation(x, self.fixed.reshape(1), self.zero, self.form.qmin, self.form.qmax)


class BitQuantisers(nn.Module):
    """Both quantisers of a convolution at one bit width; at 32 bits a ReLU and the weight as it is."""

    def __init__(self, weight: Tensor, bits: int, act_quant: ActQuant) -> None:
        super().__init__()
        if bits != FLOAT_BITS and bits not in HWGQ_STEPS:
            raise UsageError(f"no quantiser has {bits} bits")
        self.bits, self.rounding = bits, True
        self.weight = nn.Identity() if bits == FLOAT_BITS else LsqWeight(weight, bits)
        if bits == FLOAT_BITS:
            self.activation: nn.Module = nn.ReLU()
        else:
            self.activation = LsqActivation(bits) if act_quant is ActQuant.LSQ else HwgqActivation(bits)

    def forward(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The rounded operands; while `rounding` is off, what they would be at 32 bits."""
        if not self.rounding:
            return torch.relu(x), weight
        return self.activation(x), self.weight(weight)

    def limit(self) -> float:
        """The largest activation that is represented; 0 where there is no limit."""
        active = self.activation
        if isinstance(active, LsqActivation | HwgqActivation):
            return float(active.step().detach()) * active.form.qmax
        return 0.0


@contextmanager
def measuring(module: nn.Module) -> Iterator[None]:
    """Inside the block, every learned step below `module` is set from each operand that it meets; without gradients."""
    steps = [part for part in module.modules() if isinstance(part, LsqActivation | LsqWeight)]
    with torch.no_grad():
        for part in steps:
            part.measuring = True
        try:
            yield
        finally:
            for part in steps:
                part.measuring = False


def split_steps(named: Mapping[str, nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """All other parameters, and the learned steps of quantisers, which are told by their names."""
    steps = [p for name, p in named.items() if name.endswith("log_step")]
    return [p for name, p in named.items() if not name.endswith("log_step")], steps


def round_over_range(x: Tensor, bits: int) -> Tensor:
    """`x` through the integers that cover its range, per tensor: what noise of `NoiseRange.MINMAX` imitates."""
    if bits == FLOAT_BITS:
        return x
    form = activation_format(bits)
    low, high = torch.aminmax(x.detach())
    return fake_quantize(x, params_from_range(low, high, form), form)
