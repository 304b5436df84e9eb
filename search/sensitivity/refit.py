"""Refit: the cost and the quality model corrected by what was measured, by ridge regression with fixed priors.

A global scale and offset take the common error, residuals per block and precision the rest. With few measurements the
priors hold the residuals near zero, so one measured plan is enough to start from. Bayesian linear regression (Bishop,
Pattern Recognition and Machine Learning, section 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.foundation.errors import UsageError
from search.sensitivity.cost import Crossing, SeparableCost
from search.sensitivity.precision import Assignment
from search.sensitivity.quality import QualityModel

COST_NOISE, QUALITY_NOISE = 0.01, 0.02
"""Standard deviation of a measurement, relative to the largest one."""

OFFSET, SCALE, RESIDUAL = 0.1, 0.5, 0.2
"""Prior standard deviations: of the offset relative to the largest measurement, of the factors as they are."""

LEAST_FACTOR = 0.05
"""A correction never turns a layer's error or time to nothing, or its sign around."""

Key = tuple[str, str]
"""A block and a precision."""


@dataclass(frozen=True)
class Measured:
    """A plan that was built and measured. Either may be None."""

    assignment: Assignment
    ms: float | None = None
    drop: float | None = None


def refit_cost(cost: SeparableCost, blocks: Mapping[str, str], measured: Sequence[Measured]) -> SeparableCost:
    """The cost corrected to the measured times. `blocks`: the block of each layer (`groups.partition`)."""
    known = [(m.assignment, m.ms) for m in measured if m.ms is not None]
    if not known:
        return cost
    targets = np.array([ms for _, ms in known])
    predicted = np.array([cost.ms(assignment) for assignment, _ in known])
    keys = _keys(blocks, cost.layer_ms)
    shares = [{n: row[a[n]] for n, row in cost.layer_ms.items()} for a, _ in known]
    columns = np.column_stack([np.ones(len(known)), predicted - cost.constant_ms, _by_key(keys, blocks, known, shares)])
    reach = float(np.abs(targets).max())
    prior = np.array([OFFSET * reach, SCALE, *[RESIDUAL] * len(keys)])
    offset, scale, *residuals = _ridge(columns, targets - predicted, prior, COST_NOISE * reach)
    factor = {key: max(1.0 + scale + r, LEAST_FACTOR) for key, r in zip(keys, residuals, strict=True)}
    common = max(1.0 + scale, LEAST_FACTOR)
    return SeparableCost(
        constant_ms=cost.constant_ms + offset,
        layer_ms={n: {p: ms * factor[blocks[n], p] for p, ms in row.items()} for n, row in cost.layer_ms.items()},
        boundaries=tuple(_scaled(edge, common) for edge in cost.boundaries),
        source=cost.source if cost.source.endswith(REFITTED) else cost.source + REFITTED,
    )


REFITTED = ", refitted"


def refit_quality(model: QualityModel, blocks: Mapping[str, str], measured: Sequence[Measured]) -> QualityModel:
    """The quality model corrected to the measured drops."""
    known = [(m.assignment, m.drop) for m in measured if m.drop is not None]
    reach = max((abs(drop) for _, drop in known), default=0.0)
    if reach == 0.0:
        return model
    shares = [
        {n: model.drop_per_error * e for n, e in model.layer_share(assignment).items()} for assignment, _ in known
    ]
    predicted = np.array([sum(share.values()) for share in shares])
    keys = _keys(blocks, model.layer_error)
    columns = np.column_stack([predicted, _by_key(keys, blocks, known, shares)])
    prior = np.array([2 * SCALE, *[2 * RESIDUAL] * len(keys)])
    targets = np.array([drop for _, drop in known])
    scale, *residuals = _ridge(columns, targets - predicted, prior, QUALITY_NOISE * reach)
    factor = {key: max(1.0 + scale + r, LEAST_FACTOR) for key, r in zip(keys, residuals, strict=True)}
    layers = {n: {p: e * factor[blocks[n], p] for p, e in row.items()} for n, row in model.layer_error.items()}
    pairs = tuple(
        pair.model_copy(update={"error": pair.error * sum(factor[blocks[n], p] for n, p in ends) / 2})
        for pair in model.interactions
        for ends in [(pair.first, pair.second)]
    )
    return model.model_copy(update={"layer_error": layers, "interactions": pairs})


def _keys(blocks: Mapping[str, str], layers: Mapping[str, Mapping[str, float]]) -> list[Key]:
    missing = [name for name in layers if name not in blocks]
    if missing:
        raise UsageError(f"layer {missing[0]} belongs to no block; give the partition of the same network")
    return list(dict.fromkeys((blocks[name], p) for name, row in layers.items() for p in row))


def _by_key(
    keys: list[Key],
    blocks: Mapping[str, str],
    known: Sequence[tuple[Assignment, float | None]],
    shares: Sequence[Mapping[str, float]],
) -> np.ndarray:
    """Each measurement's predicted part by block and precision, [measurements, keys]."""
    number = {key: i for i, key in enumerate(keys)}
    table = np.zeros((len(known), len(keys)))
    for row, ((assignment, _), share) in enumerate(zip(known, shares, strict=True)):
        for name, value in share.items():
            table[row, number[blocks[name], assignment[name]]] += value
    return table


def _ridge(columns: np.ndarray, targets: np.ndarray, prior: np.ndarray, noise: float) -> list[float]:
    """The most probable coefficients under zero-mean normal priors and normal noise."""
    scaled = columns * prior / noise
    normal = scaled.T @ scaled + np.eye(len(prior))
    solution: list[float] = (prior * np.linalg.solve(normal, scaled.T @ (targets / noise))).tolist()
    return solution


def _scaled(edge: Crossing, factor: float) -> Crossing:
    ms = {p: {q: v * factor for q, v in row.items()} for p, row in edge.ms.items()}
    return edge.model_copy(update={"ms": ms})
