"""The linear system behind AdditiveCost: observed times of layers and plans on one side, effects on the other."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bitwright.foundation.errors import UsageError
from hw_profiles.predictor.prediction import Prediction

Observation = tuple[Mapping[str, str], float | Prediction]
"""A plan as layer -> precision, and its time: a prediction, which knows its kernels, or only ms."""

Crossings = dict[str, dict[str, float]]
"""ms by precision of the producer, then of the consumer."""

_SHARED, _OWN, _TOTAL = 1e-4, 1e-2, 3.0
"""Ridge of effects that all layers share, ridge of a layer's own deviation, weight of a plan's total time."""
_PARTS = ("producer", "consumer", "rest")

Key = tuple[str, ...]
Row = dict[int, float]


@dataclass
class AdditiveSystem:
    """The linear system: each column is an effect, each row an observed time; rows know which plan they come from."""

    layers: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]
    weights: dict[str, float]
    totals: list[tuple[dict[str, str], float]] = field(default_factory=list)
    columns: dict[Key, int] = field(default_factory=dict)
    ridge: list[float] = field(default_factory=list)
    rows: list[tuple[int, Row, float]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        observations: Sequence[Observation],
        edges: Sequence[tuple[str, str]],
        weights: Mapping[str, float] | None,
    ) -> AdditiveSystem:
        """Set up the rows of all plans; UsageError for plans that are empty or do not fit each other."""
        if not observations:
            raise UsageError("a cost cannot be fitted without an observed plan")
        layers = tuple(observations[0][0])
        strays = sorted({end for edge in edges for end in edge} - set(layers))
        if strays:
            raise UsageError(f"edges name layers that the plans do not: {', '.join(strays)}")
        given = {layer: 1.0 if weights is None else max(weights.get(layer, 0.0), 0.0) for layer in layers}
        whole = sum(given.values()) or 1.0
        problem = cls(layers, tuple(dict.fromkeys(edges)), {layer: part / whole for layer, part in given.items()})
        problem._column(("constant",), _SHARED)
        for number, (plan, time) in enumerate(observations):
            if set(plan) != set(layers):
                wrong = sorted(set(plan) ^ set(layers))
                raise UsageError(f"observed plan {number} has other layers than the first one: {', '.join(wrong)}")
            problem._observe(number, dict(plan), time)
        return problem

    def _column(self, key: Key, ridge: float) -> int:
        if key not in self.columns:
            self.columns[key] = len(self.columns)
            self.ridge.append(ridge)
        return self.columns[key]

    def _layer(self, layer: str, precision: str) -> Iterator[tuple[int, float]]:
        yield self._column(("kind", precision), _SHARED), self.weights[layer]
        yield self._column(("layer", layer, precision), _OWN), 1.0

    def _edge(self, part: str, edge: tuple[str, str], plan: Mapping[str, str]) -> Iterator[tuple[int, float]]:
        ends = plan[edge[0]], plan[edge[1]]
        if ends[0] != ends[1]:
            yield self._column(("crossing", part, *ends), _SHARED), 1.0
            yield self._column(("edge", part, *edge, *ends), _OWN), 1.0

    def _observe(self, number: int, plan: dict[str, str], time: float | Prediction) -> None:
        ms = time.ms if isinstance(time, Prediction) else time
        if not ms > 0:
            raise UsageError(f"observed plan {number} takes {ms} ms; a time is positive")
        self.totals.append((plan, ms))
        parts: dict[Key, list[tuple[int, float]]] = {("rest",): [(self.columns["constant",], 1.0)]}
        for layer in self.layers:
            parts[layer,] = list(self._layer(layer, plan[layer]))
        for edge in self.edges:
            parts[edge[0],] += self._edge("producer", edge, plan)
            parts[edge[1],] += self._edge("consumer", edge, plan)
            parts["rest",] += self._edge("rest", edge, plan)
        self.rows.append((number, _scaled([term for terms in parts.values() for term in terms], _TOTAL), ms * _TOTAL))
        if isinstance(time, Prediction):
            for key, seconds in self._attributed(time).items():
                self.rows.append((number, _scaled(parts[key], 1.0), seconds))

    def _attributed(self, prediction: Prediction) -> dict[Key, float]:
        """Times by layer and the rest; what the network takes over the sum of its kernels belongs to all alike."""
        times: dict[Key, float] = {("rest",): 0.0, **{(layer,): 0.0 for layer in self.layers}}
        for item in prediction.kernels:
            mine = [layer for layer in item.kernel.layers if layer in self.weights]
            for layer in mine:
                times[layer,] += item.ms / len(mine)
            if not mine:
                times["rest",] += item.ms
        kernels = sum(times.values())
        return {key: part * prediction.ms / kernels for key, part in times.items()} if kernels > 0 else {}

    def solve(self, chosen: Sequence[int]) -> AdditiveSolution:
        """Ridge regression on the rows of the chosen plans; times are scaled so that the ridge has no unit."""
        kept = [(row, ms) for number, row, ms in self.rows if number in set(chosen)]
        used = sorted({column for row, _ in kept for column in row})
        place = {column: k for k, column in enumerate(used)}
        unit = statistics.fmean(self.totals[k][1] for k in chosen)
        matrix = np.zeros((len(kept), len(used)))
        for line, (row, _) in enumerate(kept):
            for column, value in row.items():
                matrix[line, place[column]] = value
        right = matrix.T @ np.array([ms / unit for _, ms in kept])
        penalty = np.diag([self.ridge[column] for column in used])
        found = np.linalg.solve(matrix.T @ matrix + penalty * 1e-2, right) * unit
        return AdditiveSolution(self, {column: float(found[place[column]]) for column in used})


def _scaled(terms: Sequence[tuple[int, float]], factor: float) -> Row:
    row: Row = {}
    for column, value in terms:
        row[column] = row.get(column, 0.0) + value * factor
    return row


@dataclass(frozen=True)
class AdditiveSolution:
    """The effects found, ms; one that was never observed is zero beyond what all layers share."""

    problem: AdditiveSystem
    theta: dict[int, float]

    def _value(self, *key: str) -> float:
        return self.theta.get(self.problem.columns.get(key, -1), 0.0)

    def _layer(self, layer: str, precision: str) -> float:
        shared = self._value("kind", precision) * self.problem.weights[layer]
        return shared + self._value("layer", layer, precision)

    def _edge(self, edge: tuple[str, str], ends: tuple[str, str]) -> float:
        return sum(self._value("crossing", p, *ends) + self._value("edge", p, *edge, *ends) for p in _PARTS)

    def knows(self, plan: Mapping[str, str]) -> bool:
        """Whether each layer of the plan was observed in its precision."""
        columns = (self.problem.columns.get(("layer", layer, plan[layer]), -1) for layer in plan)
        return all(column in self.theta for column in columns)

    @property
    def constant_ms(self) -> float:
        """What no layer and no boundary accounts for."""
        return self._value("constant")

    def total(self, plan: Mapping[str, str]) -> float:
        """Time of a plan in ms."""
        crossings = (self._edge(e, (plan[e[0]], plan[e[1]])) for e in self.problem.edges if plan[e[0]] != plan[e[1]])
        return self.constant_ms + sum(self._layer(i, p) for i, p in plan.items()) + sum(crossings)

    def layer_ms(self) -> dict[str, dict[str, float]]:
        """Costs of each layer in each precision that some plan gave it."""
        seen = {layer: dict.fromkeys(plan[layer] for plan, _ in self.problem.totals) for layer in self.problem.layers}
        return {layer: {p: self._layer(layer, p) for p in kinds} for layer, kinds in seen.items()}

    def crossings(self) -> dict[tuple[str, str], Crossings]:
        """Costs of each edge for every pair of different precisions that its ends may have."""
        kinds = self.layer_ms()
        return {
            edge: {p: {q: self._edge(edge, (p, q)) for q in kinds[edge[1]] if q != p} for p in kinds[edge[0]]}
            for edge in self.problem.edges
        }
