"""Rates: a kernel's time as a sum of amounts of work, each at its own cost; the part of the model that extrapolates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from pydantic import Field

from bitwright.foundation.optional import require
from hw_profiles.model import Part

FLOOR_MS = 1e-4
"""Shorter times are below what profilers resolve."""

_WHOLE_MS = 0.05
"""Kernels shorter than this weigh less, because their measured times are rounded to whole microseconds."""

_ROUNDS = 8


class Rates(Part):
    """ms = sum of `ms_per_unit` x amount, none of them negative; `count` kernels were fitted."""

    ms_per_unit: dict[str, float]
    count: int = Field(ge=1)

    def ms(self, amounts: Mapping[str, float]) -> float:
        """Time in ms; an amount that was not fitted costs nothing."""
        return max(FLOOR_MS, sum(cost * amounts.get(name, 0.0) for name, cost in self.ms_per_unit.items()))

    @classmethod
    def fit(cls, amounts: Sequence[Mapping[str, float]], ms: Sequence[float]) -> Self:
        """Non-negative least squares of errors relative to the geometric mean of guess and truth, by reweighting.

        Relative to the truth alone, guesses that are too small would look better than those that are too large.
        """
        names = sorted({name for row in amounts for name in row})
        truth = np.asarray(ms, dtype=float)
        matrix = np.array([[row.get(name, 0.0) for name in names] for row in amounts])
        scale = np.maximum(matrix.max(axis=0), 1e-12)
        matrix = matrix / scale
        importance = np.sqrt(sample_weights(ms))
        guess = truth
        costs = np.zeros(len(names))
        for _ in range(_ROUNDS):
            weight = importance / np.sqrt(truth * guess)
            costs = require("scipy.optimize").nnls(matrix * weight[:, None], truth * weight)[0]
            guess = np.maximum(matrix @ costs, FLOOR_MS)
        found = {name: float(cost / unit) for name, cost, unit in zip(names, costs, scale, strict=True) if cost > 0}
        return cls(ms_per_unit=found, count=len(truth))


def sample_weights(ms: Sequence[float]) -> np.ndarray:
    """What each measured kernel counts in a fit, 0 to 1; shape [kernels]."""
    weights: np.ndarray = np.clip(np.asarray(ms, dtype=float) / _WHOLE_MS, 0.02, 1.0)
    return weights
