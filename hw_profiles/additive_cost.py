"""AdditiveCost: the time of a plan as a sum over layers and over layer boundaries, which a solver can minimise."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pydantic import Field

from bitwright.foundation.errors import UsageError
from hw_profiles.additive_system import AdditiveSystem, Observation
from hw_profiles.model import Part


class AdditiveError(Part):
    """Absolute relative error of the sum against the observations; `held_out`: each one left out of its own fit."""

    observations: int = Field(ge=1)
    median: float = Field(ge=0)
    worst: float = Field(ge=0)
    held_out_median: float | None = None
    held_out_worst: float | None = None


class Boundary(Part):
    """What an edge adds where its ends differ: ms by precision of the producer, then of the consumer."""

    producer: str
    consumer: str
    ms: dict[str, dict[str, float]]


class AdditiveCost(Part):
    """cost(plan) = constant + sum of layer_ms[i][p_i] + sum over edges of boundary[i, j][p_i][p_j], in ms.

    A boundary between equal precisions costs nothing: that is part of the layers' own time. Single terms may be
    negative, as a layer that writes a wide type may spare another one a conversion; only sums are times.
    """

    constant_ms: float
    layer_ms: dict[str, dict[str, float]]
    boundaries: tuple[Boundary, ...]
    error: AdditiveError

    def ms(self, assignment: Mapping[str, str]) -> float:
        """Time of a plan in ms; UsageError for a layer that is missing or a precision that was never observed."""
        total = self.constant_ms
        for layer, costs in self.layer_ms.items():
            precision = assignment.get(layer)
            if precision not in costs:
                known = ", ".join(costs)
                raise UsageError(
                    f"no cost is known for layer {layer} in {precision or 'no precision'} (known: {known})"
                )
            total += costs[precision]
        for edge in self.boundaries:
            total += self._crossing(edge, assignment)
        return total

    def boundary_ms(self, producer: str, consumer: str) -> Mapping[str, Mapping[str, float]]:
        """The costs of an edge by both precisions; a pair that is absent costs nothing."""
        found = (edge.ms for edge in self.boundaries if (edge.producer, edge.consumer) == (producer, consumer))
        return next(found, {})

    @staticmethod
    def _crossing(edge: Boundary, assignment: Mapping[str, str]) -> float:
        return edge.ms.get(assignment[edge.producer], {}).get(assignment[edge.consumer], 0.0)

    @classmethod
    def fit(
        cls,
        observations: Sequence[Observation],
        edges: Sequence[tuple[str, str]],
        weights: Mapping[str, float] | None = None,
    ) -> AdditiveCost:
        """Least squares over plans of one network, with its error on plans left out.

        All assignments name the same layers; `edges` are (layer, layer that reads it). A prediction tells the time of
        each layer's kernels, so few plans suffice; of bare times, at least as many plans as layers tell them apart.
        `weights` says how a time that is not attributed is shared out, for instance MACs (default: evenly). UsageError
        for observations that are empty or do not fit each other.
        """
        problem = AdditiveSystem.of(observations, edges, weights)
        solution = problem.solve(range(len(observations)))
        fitted = [_relative(solution.total(plan), time) for plan, time in problem.totals]
        held_out = []
        if len(observations) > 2:
            for left in range(len(observations)):
                rest = problem.solve([k for k in range(len(observations)) if k != left])
                plan, time = problem.totals[left]
                if rest.knows(plan):
                    held_out.append(_relative(rest.total(plan), time))
        return cls(
            constant_ms=solution.constant_ms,
            layer_ms=solution.layer_ms(),
            boundaries=tuple(Boundary(producer=a, consumer=b, ms=ms) for (a, b), ms in solution.crossings().items()),
            error=AdditiveError(
                observations=len(observations),
                median=statistics.median(fitted),
                worst=max(fitted),
                held_out_median=statistics.median(held_out) if held_out else None,
                held_out_worst=max(held_out) if held_out else None,
            ),
        )


def _relative(guess: float, truth: float) -> float:
    return abs(guess - truth) / truth
