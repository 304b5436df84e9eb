"""NetworkModel: from the sum of a network's kernels to the time of the whole; what no kernel's time contains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from hw_profiles.latency_table import NetworkRow
from hw_profiles.model import Part
from hw_profiles.predictor.rates import Rates

_ENOUGH = 6
"""Fewer measured networks than this do not tell a call's overhead from a kernel's time."""


class NetworkModel(Part):
    """ms = share x sum of kernels + ms per call + constant, each at least zero, by least squares of relative errors."""

    rates: Rates = Rates(ms_per_unit={"kernel_ms": 1.0}, count=1)

    def ms(self, kernel_ms: Sequence[float]) -> float:
        """Time of the whole network in ms from the times of its calls."""
        return self.rates.ms(_amounts(kernel_ms))

    @classmethod
    def fit(cls, networks: Sequence[NetworkRow]) -> Self:
        """From networks whose calls were timed too; of few networks, the sum of the kernels is all."""
        if len(networks) < _ENOUGH:
            return cls()
        return cls(rates=Rates.fit([_amounts(row.kernel_ms) for row in networks], [row.ms.p50 for row in networks]))


def _amounts(kernel_ms: Sequence[float]) -> Mapping[str, float]:
    return {"kernel_ms": sum(kernel_ms), "calls": float(len(kernel_ms)), "networks": 1.0}
