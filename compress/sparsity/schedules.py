"""Schedules of sparse training, all of them pure functions of the global step, so that a resumed run goes on the same.

Phases: dense warm-up [0, S0), decay [S0, S1), fixed-mask fine-tuning [S1, T). u = (t - S0) / (S1 - S0), in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity


class Phase(StrEnum):
    """Where in the training a step lies."""

    DENSE = "dense"
    DECAY = "decay"
    FINE_TUNE = "fine_tune"


@dataclass(frozen=True)
class Phases:
    """The three phases of `total` steps; `dense` and `fine_tune` are shares of it, not percentages and not steps.

    `first`: the step before which no phase but the first one begins, because the total is not known until then; 0: it
    always was. A total that is found late always leaves a step for the decay.
    """

    total: int
    dense: float = 0.0
    fine_tune: float = 0.15
    first: int = 0

    def __post_init__(self) -> None:
        """UsageError where the shares leave no step for the decay."""
        fits = self.start < self.end <= self.total
        if self.total < 1 or self.dense < 0 or self.fine_tune < 0 or not fits:
            raise UsageError(
                f"{self.total} steps with shares of {self.dense:g} dense and {self.fine_tune:g} fine-tuning leave no "
                "step to prune in; both are shares between 0 and 1"
            )

    @property
    def start(self) -> int:
        """S0: the first step with a mask."""
        wanted = round(self.dense * self.total)
        return min(max(wanted, self.first), self.total - 1) if self.first and self.dense else wanted

    @property
    def end(self) -> int:
        """S1: the first step of fine-tuning."""
        wanted = self.total - round(self.fine_tune * self.total)
        return max(wanted, self.first, self.start + 1) if self.first else wanted

    def phase(self, step: int) -> Phase:
        """The phase of a step."""
        return Phase.DENSE if step < self.start else Phase.DECAY if step < self.end else Phase.FINE_TUNE

    def progress(self, step: int) -> float:
        """u of a step."""
        return min(1.0, max(0.0, (step - self.start) / (self.end - self.start)))


@dataclass(frozen=True)
class LinearDecay:
    """beta(u) = max(0, 1 - u / rho): the share of a pruned weight that still counts."""

    rho: float = 0.8

    def __call__(self, u: float) -> float:
        """Beta at u, 0 from rho on."""
        return 0.0 if u >= 1.0 else max(0.0, 1.0 - u / self.rho)

    @staticmethod
    def per_step(rate: float, phases: Phases) -> LinearDecay:
        """The authors' form, max(0, 1 - rate t) with t counted from the first step with a mask."""
        return LinearDecay(1.0 / (rate * (phases.end - phases.start)))


@dataclass(frozen=True)
class ExponentialDecay:
    """beta(u) = exp(-kappa u), and exactly 0 at u = 1: the exponential alone would never give an N:M network."""

    kappa: float = 6.0

    def __call__(self, u: float) -> float:
        """Beta at u."""
        return 0.0 if u >= 1.0 else math.exp(-self.kappa * u)

    @staticmethod
    def per_step(rate: float, phases: Phases) -> ExponentialDecay:
        """The authors' form, exp(-rate t) with t counted from the first step with a mask."""
        return ExponentialDecay(rate * (phases.end - phases.start))


def stepwise(target: Sparsity) -> tuple[Sparsity, ...]:
    """Patterns of shrinking N at the target's M: M-1, M/2, M/4 ... N. Other ratios than powers of two: the geometric
    interpolation of N, rounded down.
    """
    if target.dense:
        return (target,)
    frames = math.ceil(math.log2(target.m / target.n))
    kept = [target.m - 1]
    # The small term keeps exact powers from being rounded below themselves.
    kept += [math.floor(target.m * (target.n / target.m) ** (i / frames) + 1e-9) for i in range(1, frames)]
    return tuple(Sparsity(n=n, m=target.m) for n in (*kept, target.n))


def geometric(target: Sparsity, channels: int, factor: int = 8) -> tuple[Sparsity, ...]:
    """Patterns of the target's density in shrinking groups, from factor N : factor M on, `factor` a power of two.

    Leading ones whose groups do not divide `channels` are left out; a narrow layer may keep the last one only.
    """
    if factor < 1 or factor & (factor - 1):
        raise UsageError(f"the first groups are longer by a power of two, not {factor}")
    found = [Sparsity(n=target.n * f, m=target.m * f) for f in (2**j for j in range(factor.bit_length() - 1, -1, -1))]
    return tuple(p for p in found if channels % p.m == 0 or p == target)


def frame_at(u: float, frames: tuple[Sparsity, ...]) -> Sparsity:
    """The pattern at u: equal shares of the decay, min(F - 1, floor(u F))."""
    return frames[min(len(frames) - 1, math.floor(u * len(frames)))]
