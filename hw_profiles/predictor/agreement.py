"""Agreement: how well predicted times fit measured ones, in size and in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import Field

from bitwright.foundation.optional import require
from hw_profiles.model import Part


class Agreement(Part):
    """Median and 90th percentile of |predicted / measured - 1|, signed median (`bias`), and Kendall's tau-b.

    `tau` is None for fewer than two different times.
    """

    count: int = Field(ge=1)
    median: float = Field(ge=0)
    p90: float = Field(ge=0)
    bias: float
    tau: float | None = None

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Self:
        """Of times in any one unit, pair by pair."""
        if not measured or len(predicted) != len(measured):
            raise ValueError(f"{len(predicted)} predicted and {len(measured)} measured times cannot be compared")
        signed = np.asarray(predicted) / np.asarray(measured) - 1
        ranks = float(require("scipy.stats").kendalltau(predicted, measured).statistic)
        return cls(
            count=len(measured),
            median=float(np.median(np.abs(signed))),
            p90=float(np.quantile(np.abs(signed), 0.9)),
            bias=float(np.median(signed)),
            tau=ranks if np.isfinite(ranks) else None,
        )

    def __str__(self) -> str:
        tau = "n/a" if self.tau is None else f"{self.tau:.3f}"
        return f"median {self.median:.1%}, p90 {self.p90:.1%}, tau {tau} (n={self.count})"
