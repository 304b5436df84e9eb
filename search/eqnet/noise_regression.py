"""Quality of a subnet by ridge regression on the noise of its quantisers; ours, not of the paper.

A quantiser of b bits has steps of 2^-b of its range and a noise power of 4^-b. To first order a loss is linear in the
powers of many small independent noises; what a step does to a layer beyond its noise (clipped ends, a grid without
symmetry) goes with 2^-b and with the form. So the features are 2^-b and 4^-b of each free layer's weights and input,
the three attributes of the form, and their products with 2^-b; the strength of the ridge is chosen by leaving samples
out one by one. On ResNet-20 it needs a quarter of the samples of the paper's network for the same rank correlation
(`python -m benchmarks.eqnet_mixed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from sklearn.linear_model import RidgeCV

from search.eqnet.encoder import Bits
from search.eqnet.forms import Form
from search.eqnet.predictor import Predictor
from search.eqnet.regression import Floats, Indices, attributes, indices, moments, parts, steps, write
from search.eqnet.samples import Measured
from search.eqnet.space import ElasticSpace

STRENGTHS = np.logspace(-2, 4, 25)


@dataclass(frozen=True)
class NoiseRegression(Predictor):
    """Linear in standardised features: `slopes` [features], the features' `mean` and `spread`, and the `intercept`."""

    KIND: ClassVar[str] = "noise regression"
    space: ElasticSpace
    slopes: Floats
    mean: Floats
    spread: Floats
    intercept: float

    @staticmethod
    def fit(space: ElasticSpace, samples: Sequence[Measured]) -> NoiseRegression:
        """Of at least two samples."""
        bits, form, values = parts(samples)
        found = features(space, bits, form)
        mean, spread = moments(found)
        ridge = RidgeCV(STRENGTHS).fit((found - mean) / spread, values)
        return NoiseRegression(space, ridge.coef_, mean, spread, float(ridge.intercept_))

    def quality(self, bits: Bits, form: Form | Indices) -> Floats:
        """Predicted quality of a population, [members]."""
        given = (features(self.space, bits, indices(bits, form)) - self.mean) / self.spread
        result: Floats = given @ self.slopes + self.intercept
        return result

    def save(self, path: Path) -> None:
        """Write the coefficients with the space."""
        arrays = {name: getattr(self, name) for name in ("slopes", "mean", "spread")}
        write(path, self.KIND, self.space, {**arrays, "intercept": np.array(self.intercept)})

    @staticmethod
    def restored(space: ElasticSpace, state: dict[str, Floats]) -> NoiseRegression:
        """Of what `save` wrote."""
        return NoiseRegression(space, state["slopes"], state["mean"], state["spread"], float(state["intercept"]))


def features(space: ElasticSpace, bits: Bits, form: Indices) -> Floats:
    """[members, 3 + 10 L] of widths [members, layers, 2] and forms' indices [members]; L: free layers."""
    first, signs = steps(space, bits), attributes(form)
    products = (first[:, None, :] * signs[:, :, None]).reshape(len(bits), -1)
    return np.concatenate([signs, first, first**2, products], 1)
