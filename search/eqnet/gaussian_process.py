"""Quality of a subnet by a Gaussian process on the steps of its quantisers; ours, not of the paper.

The covariance of two subnets is that of a linear function of the steps, plus that of a smooth one in which each step
has a length of its own, plus noise. The linear part is what `noise_regression` knows; the smooth one has what is no sum
over layers, such as a narrow input behind narrow weights. Lengths and variances are those of the highest marginal
likelihood (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapter 5).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from bitwright.foundation.files import atomic_path
from search.eqnet.encoder import Bits, bits_of, forms_of
from search.eqnet.forms import Form
from search.eqnet.predictor import METADATA, Predictor
from search.eqnet.samples import Measured
from search.eqnet.space import ElasticSpace

Floats = NDArray[np.float64]
ITERATIONS = 40
"""Of L-BFGS; on 400 subnets of ResNet-20 more of them changed nothing in the ranks."""
JITTER = 1e-6
LENGTH = 5.0
"""Where lengths start, in standard deviations of a step."""


@dataclass(frozen=True)
class GaussianProcess(Predictor):
    """`seen`: standardised features of the subnets that it has learnt from, [n, features], with their `weights`, [n].

    `lengths`: of the smooth part, [features]; `variances`: of the smooth part, of slopes, and of the constant. Quality
    is `level` plus `scale` times the process; `mean` and `spread` standardise the features.
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

    @staticmethod
    def fit(space: ElasticSpace, samples: Sequence[Measured]) -> GaussianProcess:
        """Of at least two samples."""
        configurations = [sample.configuration for sample in samples]
        found = features(space, bits_of(configurations), forms_of(configurations))
        values = np.array([sample.value for sample in samples])
        mean, spread = found.mean(0), found.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        level, scale = float(values.mean()), float(values.std()) or 1.0
        seen = (found - mean) / spread
        smooth = ConstantKernel(1.0) * RBF(np.full(seen.shape[1], LENGTH))
        kernel = smooth + ConstantKernel(0.1) * DotProduct(1.0) + WhiteKernel(0.1)
        process = GaussianProcessRegressor(kernel, alpha=JITTER, optimizer=_highest)
        with warnings.catch_warnings():
            # A length that goes to its bound says that the step does not matter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(seen, (values - level) / scale)
        (amplitude, rbf), (slope, dot) = ((part.k1, part.k2) for part in (process.kernel_.k1.k1, process.kernel_.k1.k2))
        slopes = slope.constant_value
        variances = np.array([amplitude.constant_value, slopes, slopes * dot.sigma_0**2])
        lengths = np.broadcast_to(rbf.length_scale, seen.shape[1]).copy()
        return GaussianProcess(space, seen, process.alpha_, lengths, variances, mean, spread, level, scale)

    def quality(self, bits: Bits, form: Form | NDArray[np.int64]) -> Floats:
        """Predicted quality of a population, [members]."""
        index = np.full(len(bits), form.index) if isinstance(form, Form) else form
        given = (features(self.space, bits, index) - self.mean) / self.spread
        near, far = given / self.lengths, self.seen / self.lengths
        squares = (near**2).sum(1)[:, None] + (far**2).sum(1) - 2 * near @ far.T
        amplitude, slopes, constant = self.variances
        covariance = amplitude * np.exp(-0.5 * np.maximum(squares, 0.0)) + slopes * (given @ self.seen.T) + constant
        result: Floats = self.level + self.scale * (covariance @ self.weights)
        return result

    def save(self, path: Path) -> None:
        """Write all of it with the space."""
        names = ("seen", "weights", "lengths", "variances", "mean", "spread")
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in names}
        arrays |= {name: np.array(getattr(self, name)) for name in ("level", "scale")}
        described = {"kind": self.KIND, "space": self.space.model_dump()}
        with atomic_path(path) as temporary:
            save_file(arrays, temporary, metadata={METADATA: json.dumps(described)})

    @staticmethod
    def restored(space: ElasticSpace, state: dict[str, Floats]) -> GaussianProcess:
        """Of what `save` wrote."""
        arrays = {name: value for name, value in state.items() if value.ndim}
        return GaussianProcess(space, **arrays, level=float(state["level"]), scale=float(state["scale"]))


def features(space: ElasticSpace, bits: Bits, form: NDArray[np.int64]) -> Floats:
    """[members, 2 L + 3] of widths [members, layers, 2] and forms' indices [members]; L: free layers.

    The step 2^-b of each free layer's weights and input, and the three attributes of the form.
    """
    steps = 2.0 ** -bits[:, list(space.free)].reshape(len(bits), -1).astype(np.float64)
    signs = np.stack([form >> 2 & 1, form >> 1 & 1, form & 1], 1) * 2.0 - 1.0
    return np.concatenate([steps, signs], 1)


def _highest(objective: Any, start: Floats, bounds: Floats) -> tuple[Floats, float]:
    found = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": ITERATIONS})
    return found.x, found.fun
