"""Quality of a subnet by ridge regression on the noise of its quantisers; ours, not of the paper.

A quantiser of b bits has steps of 2^-b of its range and a noise power of 4^-b. To first order a loss is linear in the
powers of many small independent noises; what a step does to a layer beyond its noise (clipped ends, a grid without
symmetry) goes with 2^-b and with the form. So the features are 2^-b and 4^-b of each free layer's weights and input,
the three attributes of the form, and their products with 2^-b; the strength of the ridge is chosen by leaving samples
out one by one. On ResNet-20 it needs a quarter of the samples of the paper's network for the same rank correlation
(`python -m benchmarks.eqnet_mixed`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.linear_model import RidgeCV

from bitwright.foundation.files import atomic_path
from search.eqnet.encoder import Bits, bits_of, forms_of
from search.eqnet.forms import Form
from search.eqnet.predictor import METADATA, Predictor
from search.eqnet.samples import Measured
from search.eqnet.space import ElasticSpace

STRENGTHS = np.logspace(-2, 4, 25)
Features = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseRegression(Predictor):
    """Linear in standardised features: `slopes` [features], the features' `mean` and `spread`, and the `intercept`."""

    KIND: ClassVar[str] = "noise regression"
    space: ElasticSpace
    slopes: Features
    mean: Features
    spread: Features
    intercept: float

    @staticmethod
    def fit(space: ElasticSpace, samples: Sequence[Measured]) -> NoiseRegression:
        """Of at least two samples."""
        configurations = [sample.configuration for sample in samples]
        found = features(space, bits_of(configurations), forms_of(configurations))
        mean, spread = found.mean(0), found.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        ridge = RidgeCV(STRENGTHS).fit((found - mean) / spread, np.array([sample.value for sample in samples]))
        return NoiseRegression(space, ridge.coef_, mean, spread, float(ridge.intercept_))

    def quality(self, bits: Bits, form: Form | NDArray[np.int64]) -> NDArray[np.float64]:
        """Predicted quality of a population, [members]."""
        index = np.full(len(bits), form.index) if isinstance(form, Form) else form
        result: Features = (features(self.space, bits, index) - self.mean) / self.spread @ self.slopes + self.intercept
        return result

    def save(self, path: Path) -> None:
        """Write the coefficients with the space."""
        arrays = {
            "slopes": self.slopes,
            "mean": self.mean,
            "spread": self.spread,
            "intercept": np.array(self.intercept),
        }
        described = {"kind": self.KIND, "space": self.space.model_dump()}
        with atomic_path(path) as temporary:
            save_file(arrays, temporary, metadata={METADATA: json.dumps(described)})

    @staticmethod
    def restored(space: ElasticSpace, state: dict[str, Features]) -> NoiseRegression:
        """Of what `save` wrote."""
        return NoiseRegression(space, state["slopes"], state["mean"], state["spread"], float(state["intercept"]))


def features(space: ElasticSpace, bits: Bits, form: NDArray[np.int64]) -> Features:
    """[members, 3 + 10 L] of widths [members, layers, 2] and forms' indices [members]; L: free layers."""
    steps = 2.0 ** -bits[:, list(space.free)].reshape(len(bits), -1).astype(np.float64)
    signs = np.stack([form >> 2 & 1, form >> 1 & 1, form & 1], 1) * 2.0 - 1.0
    products = (steps[:, None, :] * signs[:, :, None]).reshape(len(bits), -1)
    return np.concatenate([signs, steps, steps**2, products], 1)
