"""Quality of a subnet by a Gaussian process on the steps of its quantisers; ours, not of the paper.

The covariance of two subnets is that of a linear function of the steps, plus that of a smooth one in which each step
has a length of its own, plus noise. The linear part is what `noise_regression` knows; the smooth one has what is no sum
over layers, such as a narrow input behind narrow weights. Lengths and variances are those of the highest marginal
likelihood (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapter 5).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from search.eqnet.encoder import Bits
from search.eqnet.forms import Form
from search.eqnet.predictor import Predictor
from search.eqnet.regression import Floats, Indices, attributes, indices, moments, parts, steps, write
from search.eqnet.samples import Measured
from search.eqnet.space import ElasticSpace

ITERATIONS = 40
"""Of L-BFGS."""
TUNED_ON = 800
"""Most samples that lengths and variances are found on: memory goes with samples^2 x features, time with samples^3."""
LARGEST = 4000
"""Most samples that a process is made of; its one matrix then has 128 MB."""
CHUNK = 1 << 22
"""Covariances that a prediction holds at once, 32 MB."""
JITTER = 1e-6
LENGTH = 5.0
"""Where lengths start, in standard deviations of a step."""


@dataclass(frozen=True)
class GaussianProcess(Predictor):
    """`seen`: standardised features of the subnets that it has learnt from, [n, features], with their `weights`, [n].

    `lengths`: of the smooth part, [features]; `variances`: of the smooth part, of slopes, and of the constant. Quality
    is `level` plus `scale` times the process; `mean` and `spread` standardise the features. `noise`: standard deviation
    of what no smooth function of the steps explains, in the unit of the quality; NaN in files that do not have it.
    """

    KIND: ClassVar[str] = "Gaussian process"
    space: ElasticSpace
    seen: Floats
    weights: Floats
    lengths: Floats
    variances: Floats
    mean: Floats
    spread: Floats
    level: float
    scale: float
    noise: float

    @staticmethod
    def fit(space: ElasticSpace, samples: Sequence[Measured]) -> GaussianProcess:
        """Of two to LARGEST samples; the first TUNED_ON of them decide lengths and variances."""
        bits, form, values = parts(samples)
        found = features(space, bits, form)
        mean, spread = moments(found)
        level, scale = float(values.mean()), float(values.std()) or 1.0
        seen = (found - mean) / spread
        smooth = ConstantKernel(1.0) * RBF(np.full(seen.shape[1], LENGTH))
        kernel = smooth + ConstantKernel(0.1) * DotProduct(1.0) + WhiteKernel(0.1)
        process = GaussianProcessRegressor(kernel, alpha=JITTER, optimizer=_highest)
        with warnings.catch_warnings():
            # A length that goes to its bound says that the step does not matter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            wanted = (values - level) / scale
            process.fit(seen[:TUNED_ON], wanted[:TUNED_ON])
            if len(seen) > TUNED_ON:
                process = GaussianProcessRegressor(process.kernel_, alpha=JITTER, optimizer=None).fit(seen, wanted)
        (amplitude, rbf), (slope, dot) = ((part.k1, part.k2) for part in (process.kernel_.k1.k1, process.kernel_.k1.k2))
        slopes = slope.constant_value
        variances = np.array([amplitude.constant_value, slopes, slopes * dot.sigma_0**2])
        lengths = np.broadcast_to(rbf.length_scale, seen.shape[1])
        noise = scale * process.kernel_.k2.noise_level**0.5
        return GaussianProcess(space, seen, process.alpha_, lengths, variances, mean, spread, level, scale, noise)

    def quality(self, bits: Bits, form: Form | Indices) -> Floats:
        """Predicted quality of a population, [members]."""
        step = max(1, CHUNK // len(self.seen))
        which = indices(bits, form)
        starts = range(0, max(1, len(bits)), step)
        return np.concatenate([self._quality(bits[at : at + step], which[at : at + step]) for at in starts])

    def _quality(self, bits: Bits, form: Indices) -> Floats:
        given = (features(self.space, bits, form) - self.mean) / self.spread
        near, far = given / self.lengths, self.seen / self.lengths
        squares = (near**2).sum(1)[:, None] + (far**2).sum(1) - 2 * near @ far.T
        amplitude, slopes, constant = self.variances
        covariance = amplitude * np.exp(-0.5 * np.maximum(squares, 0.0)) + slopes * (given @ self.seen.T) + constant
        result: Floats = self.level + self.scale * (covariance @ self.weights)
        return result

    def save(self, path: Path) -> None:
        """Write all of it with the space."""
        arrays = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self) if field.name != "space"}
        write(path, self.KIND, self.space, arrays)

    @staticmethod
    def restored(space: ElasticSpace, state: dict[str, Floats]) -> GaussianProcess:
        """Of what `save` wrote; KeyError names what is missing of it, other than the noise."""
        arrays = {name: state[name] for name in ("seen", "weights", "lengths", "variances", "mean", "spread")}
        level, scale = (float(state[name]) for name in ("level", "scale"))
        noise = float(state.get("noise", np.nan))
        return GaussianProcess(space, **arrays, level=level, scale=scale, noise=noise)


def features(space: ElasticSpace, bits: Bits, form: Indices) -> Floats:
    """[members, 2 L + 3] of widths [members, layers, 2] and forms' indices [members]; L: free layers."""
    return np.concatenate([steps(space, bits), attributes(form)], 1)


def _highest(objective: Any, start: Floats, bounds: Floats) -> tuple[Floats, float]:
    found = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": ITERATIONS})
    return found.x, found.fun
