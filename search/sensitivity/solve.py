"""The best assignment within a budget, solved exactly as an integer program (scipy's HiGHS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from bitwright.foundation.errors import ConstraintError, UsageError
from search.sensitivity.cost import SeparableCost
from search.sensitivity.quality import Interaction, QualityModel
from search.sensitivity.sensitivities import Option

GAP = 1e-6
SECONDS = 30.0
TIE = 1e-6
"""Weight of the other objective, relative to its range: of equally good plans the cheaper one is taken."""

_INFEASIBLE = 2


@dataclass(frozen=True)
class Solution:
    """`gap`: relative distance to the proven bound; 0 up to rounding where the solver finished."""

    assignment: dict[str, str]
    gap: float


class Program:
    """Built once per allowed set, solved for many budgets.

    A binary per layer and precision. A crossing between layers of two precisions each, and an interaction, are the
    product of two binaries; any other crossing gets one variable per pair of precisions with the layers' binaries as
    its marginals, which is exact and tight as well. `ties`: layers that share a weight, and so their precision.
    """

    def __init__(
        self,
        allowed: Mapping[str, Sequence[str]],
        cost: SeparableCost,
        quality: QualityModel,
        ties: Sequence[Sequence[str]] = (),
        interactions: Sequence[Interaction] = (),
    ) -> None:
        cost.check(allowed)
        self.ms_of = cost.ms
        self.options: list[Option] = [(layer, p) for layer, precisions in allowed.items() for p in precisions]
        self.index = {option: i for i, option in enumerate(self.options)}
        if len(self.index) != len(self.options) or not all(allowed.values()):
            raise UsageError("every layer needs at least one precision, each named once")
        self.cost = [cost.layer_ms[layer][p] for layer, p in self.options]
        self.error = [quality.layer_error[layer][p] for layer, p in self.options]
        self.constant = cost.constant_ms
        self.rows: list[tuple[dict[int, float], float, float]] = []
        for layer, precisions in allowed.items():
            self._row({self.index[layer, p]: 1.0 for p in precisions}, 1.0, 1.0)
        for members in ties:
            for member in members[1:]:
                for p in allowed[member]:
                    self._row({self.index[member, p]: 1.0, self.index[members[0], p]: -1.0}, 0.0, 0.0)
        for edge in cost.boundaries:
            self._crossing(edge.producer, edge.consumer, edge.ms, allowed)
        for pair in interactions:
            if pair.first in self.index and pair.second in self.index:
                self._product(self.index[pair.first], self.index[pair.second], error=pair.error)

    def ms(self, solution: Solution) -> float:
        """Cost of a solution."""
        return self.ms_of(solution.assignment)

    def fastest(self) -> Solution:
        """The cheapest assignment."""
        return self._solve(self._both(1.0, TIE), None)

    def best(self, budget_ms: float) -> Solution:
        """The least error at no more than `budget_ms`; ConstraintError where nothing is that cheap."""
        return self._solve(self._both(TIE, 1.0), (self.cost, budget_ms - self.constant))

    def cheapest(self, error: float) -> Solution:
        """The least cost at no more than `error`; ConstraintError where nothing is that exact."""
        return self._solve(self._both(1.0, TIE), (self.error, error))

    def _both(self, cost_weight: float, error_weight: float) -> np.ndarray:
        cost, error = np.array(self.cost), np.array(self.error)
        return cost_weight * cost / _range(cost) + error_weight * error / _range(error)

    def _row(self, values: dict[int, float], low: float, high: float) -> None:
        self.rows.append((values, low, high))

    def _new(self, cost: float, error: float) -> int:
        self.cost.append(cost)
        self.error.append(error)
        return len(self.cost) - 1

    def _crossing(
        self, producer: str, consumer: str, ms: Mapping[str, Mapping[str, float]], allowed: Mapping[str, Sequence[str]]
    ) -> None:
        pairs = {(p, q): ms.get(p, {}).get(q, 0.0) for p in allowed[producer] for q in allowed[consumer]}
        if not any(pairs.values()):
            return
        if len(allowed[producer]) == len(allowed[consumer]) == 2:
            self._crossing_of_two(producer, consumer, pairs, allowed)
            return
        made = {pair: self._new(value, 0.0) for pair, value in pairs.items()}
        for p in allowed[producer]:
            row = {made[p, q]: 1.0 for q in allowed[consumer]}
            self._row(row | {self.index[producer, p]: -1.0}, 0.0, 0.0)
        for q in allowed[consumer]:
            row = {made[p, q]: 1.0 for p in allowed[producer]}
            self._row(row | {self.index[consumer, q]: -1.0}, 0.0, 0.0)

    def _crossing_of_two(
        self, producer: str, consumer: str, ms: Mapping[tuple[str, str], float], allowed: Mapping[str, Sequence[str]]
    ) -> None:
        """With x = 1 for the first precision of the producer and y for that of the consumer: a + bx + cy + dxy."""
        (p, other), (q, last) = allowed[producer], allowed[consumer]
        x, y = self.index[producer, p], self.index[consumer, q]
        least = ms[other, last]
        # Exactly one precision of the producer is chosen, so that what both cost is a constant.
        self.cost[x] += ms[p, last]
        self.cost[self.index[producer, other]] += least
        self.cost[y] += ms[other, q] - least
        self._product(x, y, cost=ms[p, q] - ms[p, last] - ms[other, q] + least)

    def _product(self, first: int, second: int, *, cost: float = 0.0, error: float = 0.0) -> None:
        """first x second, of which one of cost and error is not 0.

        Less of both is always better, so that only the bound matters that the solver would run into.
        """
        made, weight = self._new(cost, error), cost or error
        if weight > 0:
            self._row({first: 1.0, second: 1.0, made: -1.0}, -np.inf, 1.0)
        elif weight < 0:
            self._row({made: 1.0, first: -1.0}, -np.inf, 0.0)
            self._row({made: 1.0, second: -1.0}, -np.inf, 0.0)

    def _solve(self, objective: np.ndarray, limit: tuple[list[float], float] | None) -> Solution:
        rows = list(self.rows)
        if limit is not None and np.isfinite(limit[1]):
            values, most = limit
            scale = max(np.abs(values).max(), 1e-300)
            rows.append(({i: v / scale for i, v in enumerate(values) if v}, -np.inf, most / scale))
        entries = [(r, i, v) for r, (values, _, _) in enumerate(rows) for i, v in values.items()]
        r, i, v = (np.array(column) for column in zip(*entries, strict=True))
        matrix = csr_array((v, (r, i)), shape=(len(rows), len(objective)))
        whole = (np.arange(len(objective)) < len(self.options)).astype(int)
        found = milp(
            objective,
            integrality=whole,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows]),
            options={"mip_rel_gap": GAP, "time_limit": SECONDS},
        )
        if found.status == _INFEASIBLE:
            raise ConstraintError("no assignment of the allowed precisions meets the budget")
        if found.x is None:
            raise ConstraintError(f"the solver found no assignment in {SECONDS:.0f} s: {found.message}")
        chosen = {layer: p for (layer, p), x in zip(self.options, found.x, strict=False) if x > 0.5}
        return Solution(chosen, float(found.mip_gap or 0.0))


def _range(values: np.ndarray) -> float:
    return float(np.abs(values).sum()) or 1.0
