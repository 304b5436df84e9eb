"""Correction: how far the efficiency of a kernel's shape is from what its family reaches; learned on logarithms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Self

import numpy as np

from bitwright.foundation.optional import require
from hw_profiles.model import Part
from hw_profiles.predictor.rates import sample_weights

_TREES, _DEPTH, _STEP = 60, 3, 0.1
_LENGTH, _NOISE, _FAR = 3.0, 0.02, 0.7
"""Kernel regression: reach in standard deviations per feature, noise to signal, and the largest correction (log)."""


class Method(StrEnum):
    """What is learned on top of rates."""

    NONE = "none"
    LINEAR = "linear"
    TREES = "trees"
    NEIGHBOURS = "neighbours"


class Tree(Part):
    """A binary tree as columns: at node k go to `left[k]` if feature `feature[k]` <= `threshold[k]`; a leaf has -1."""

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    def at(self, row: np.ndarray) -> float:
        """Value of the leaf that a row of features falls into."""
        node = 0
        while self.left[node] >= 0:
            # scikit-learn splits on single precision, so a value at a threshold must be rounded as it was.
            low = float(np.float32(row[self.feature[node]])) <= self.threshold[node]
            node = self.left[node] if low else self.right[node]
        return self.value[node]


class Correction(Part):
    """log(time / rates) = offset + slopes . z + sum of trees + sum over measured points of weight x closeness.

    z are the features less their `mean`, over their `spread`. Only the terms of the chosen method are there.
    """

    features: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    offset: float = 0.0
    slopes: tuple[float, ...] = ()
    trees: tuple[Tree, ...] = ()
    points: tuple[tuple[float, ...], ...] = ()
    weights: tuple[float, ...] = ()

    def factor(self, shape: Mapping[str, float]) -> float:
        """What the time by rates is multiplied with; a feature that was never seen counts as zero."""
        if not self.features:
            return math.exp(self.offset)
        row = np.array([shape.get(name, 0.0) for name in self.features])
        z = (row - self.mean) / self.spread
        total = self.offset
        if self.slopes:
            total += float(z @ np.array(self.slopes))
        total += sum(tree.at(row) for tree in self.trees)
        if self.points:
            total += float(_closeness(z[None, :], np.array(self.points))[0] @ np.array(self.weights))
        return math.exp(min(max(total, -_FAR), _FAR))

    @classmethod
    def fit(
        cls, method: Method, shapes: Sequence[Mapping[str, float]], log_ratio: Sequence[float], ms: Sequence[float]
    ) -> Self:
        """Learn log(measured / rates) of kernels with these shapes; long kernels weigh more. Deterministic."""
        weight, y = sample_weights(ms), np.asarray(log_ratio, dtype=float)
        offset = float(np.average(y, weights=weight))
        names = sorted({name for row in shapes for name in row})
        rows = np.array([[row.get(name, 0.0) for name in names] for row in shapes])
        varied = [k for k in range(len(names)) if np.ptp(rows[:, k]) > 0]
        if method is Method.NONE or not varied:
            return cls(offset=offset)
        rows = rows[:, varied]
        mean, spread = rows.mean(axis=0), rows.std(axis=0)
        z = (rows - mean) / spread
        described = cls(
            features=tuple(names[k] for k in varied),
            mean=tuple(mean.tolist()),
            spread=tuple(spread.tolist()),
            offset=offset,
        )
        return described.model_copy(update=_learned(method, rows, z, y - offset, weight))


def _learned(method: Method, rows: np.ndarray, z: np.ndarray, y: np.ndarray, weight: np.ndarray) -> dict[str, object]:
    if method is Method.LINEAR:
        model = require("sklearn.linear_model").RidgeCV(alphas=np.logspace(-1, 3, 9), fit_intercept=False)
        return {"slopes": tuple(model.fit(z, y, sample_weight=weight).coef_.tolist())}
    if method is Method.TREES:
        ensemble = require("sklearn.ensemble").GradientBoostingRegressor(
            n_estimators=_TREES, max_depth=_DEPTH, learning_rate=_STEP, loss="huber", init="zero", random_state=0
        )
        ensemble.fit(rows, y, sample_weight=weight)
        return {"trees": tuple(_tree(stage[0].tree_) for stage in ensemble.estimators_)}
    model = require("sklearn.kernel_ridge").KernelRidge(alpha=_NOISE, kernel="precomputed")
    model.fit(_closeness(z, z), y, sample_weight=weight)
    return {"points": tuple(map(tuple, z.round(4).tolist())), "weights": tuple(model.dual_coef_.tolist())}


def _tree(tree: object) -> Tree:
    columns = {name: getattr(tree, name) for name in ("feature", "threshold", "children_left", "children_right")}
    return Tree(
        feature=tuple(columns["feature"].tolist()),
        threshold=tuple(columns["threshold"].tolist()),
        left=tuple(columns["children_left"].tolist()),
        right=tuple(columns["children_right"].tolist()),
        value=tuple((_STEP * getattr(tree, "value")[:, 0, 0]).tolist()),  # noqa: B009 - the class is not typed
    )


def _closeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """exp(-d^2 / (2 l^2)) between rows, d^2 the mean squared difference over features times their root number."""
    squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2) / math.sqrt(a.shape[1])
    closeness: np.ndarray = np.exp(-squared / (2 * _LENGTH))
    return closeness
