"""Whether a tensor keeps its pattern: at most N values other than zero in each group, on the axis the runtime reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import Axis, WeightLayout, filled_up


@dataclass(frozen=True)
class Legality:
    """What was found. `worst`: the most values other than zero in a group; `zeros`: share of zeros of the tensor."""

    pattern: Sparsity
    worst: int
    zeros: float

    @property
    def holds(self) -> bool:
        """Whether every group keeps the pattern."""
        return self.worst <= self.pattern.n

    @property
    def reason(self) -> str:
        """What is wrong, in words; empty where nothing is."""
        if self.holds:
            return ""
        return f"a group has {self.worst} values other than zero; {self.pattern} allows {self.pattern.n}"


def check(weight: Tensor, pattern: Sparsity, layout: WeightLayout, axis: Axis = Axis.INPUT) -> Legality:
    """Count the values other than zero in each group of `weight`; integers must have their zero point at 0."""
    rows = layout.rows(weight, axis) != 0
    zeros = 1.0 - int(torch.count_nonzero(rows)) / max(1, rows.numel())
    counts = filled_up(rows, pattern.m).reshape(-1, pattern.m).sum(1)
    return Legality(pattern, int(counts.max()) if len(counts) else 0, zeros)
