"""QualityModel: the output error and the drop in quality of a plan, from sensitivities. Errors add up at the output."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation.errors import UsageError
from search.sensitivity.precision import Assignment
from search.sensitivity.sensitivities import EXACT, Option, Sensitivities


class Interaction(BaseModel):
    """What two layers in these precisions add to, or take from, the sum of their errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: Option
    second: Option
    error: float


class QualityModel(BaseModel):
    """drop(plan) = drop_per_error x (sum of layer errors + sum of interactions).

    A metric of small errors is linear in the mean squared output error: PSNR drops by 10 / ln 10 x error / float error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer_error: dict[str, dict[str, float]]
    interactions: tuple[Interaction, ...] = ()
    drop_per_error: float = Field(default=1.0, gt=0)

    @staticmethod
    def of(sensitivities: Sensitivities) -> QualityModel:
        """The model in units of output error: one unit of drop per unit of error until it is `scaled`."""
        names = [(option.layer, option.precision) for option in sensitivities.options]
        matrix = sensitivities.matrix()
        layer_error: dict[str, dict[str, float]] = {}
        for option in sensitivities.options:
            layer_error.setdefault(option.layer, {EXACT: 0.0})[option.precision] = option.error
        pairs = [
            Interaction(first=names[i], second=names[j], error=2.0 * float(matrix[i, j]))
            for i in range(len(names))
            for j in range(i + 1, len(names))
            if names[i][0] != names[j][0] and matrix[i, j] != 0.0
        ]
        return QualityModel(layer_error=layer_error, interactions=tuple(pairs))

    def error(self, assignment: Assignment) -> float:
        """Predicted mean squared output error, never below zero; UsageError for a precision that was not measured."""
        total = 0.0
        for layer, row in self.layer_error.items():
            if assignment.get(layer) not in row:
                raise UsageError(f"no sensitivity is known for layer {layer} in {assignment.get(layer)}")
            total += row[assignment[layer]]
        for pair in self.interactions:
            if all(assignment[layer] == precision for layer, precision in (pair.first, pair.second)):
                total += pair.error
        return max(total, 0.0)

    def drop(self, assignment: Assignment) -> float:
        """Predicted drop in the metric's unit."""
        return self.drop_per_error * self.error(assignment)

    def scaled(self, plans: Sequence[tuple[Assignment, float]]) -> QualityModel:
        """With the drop per error that fits measured (plan, drop) best; as it is where none of them lost quality."""
        errors = np.array([self.error(assignment) for assignment, _ in plans])
        drops = np.array([drop for _, drop in plans])
        if not len(plans) or errors @ drops <= 0.0:
            return self
        return self.model_copy(update={"drop_per_error": float(errors @ drops / (errors @ errors))})

    def strongest(self, count: int, allowed: Mapping[str, Collection[str]]) -> tuple[Interaction, ...]:
        """The `count` largest interactions, by absolute value, among the allowed precisions; ties by name."""
        possible = [
            pair
            for pair in self.interactions
            if all(precision in allowed[layer] for layer, precision in (pair.first, pair.second))
        ]
        return tuple(sorted(possible, key=lambda pair: (-abs(pair.error), pair.first, pair.second))[:count])

    def layer_share(self, assignment: Assignment) -> Mapping[str, float]:
        """Each layer's part of the predicted error: its own and half of every interaction it has."""
        share = {layer: row[assignment[layer]] for layer, row in self.layer_error.items()}
        for pair in self.interactions:
            if all(assignment[layer] == precision for layer, precision in (pair.first, pair.second)):
                share[pair.first[0]] += pair.error / 2
                share[pair.second[0]] += pair.error / 2
        return share
