"""What predicts the quality of a subnet from its widths and form, and how well a prediction agrees with the truth."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats

from search.eqnet.encoder import Bits, bits_of, forms_of
from search.eqnet.forms import Form
from search.eqnet.samples import Measured

METADATA = "eqnet-predictor"
"""Key of a predictor's file under which its kind and its space are."""


class Predictor(Protocol):
    """One kind of predictor, trained for one space. `KIND`: its name in files and reports."""

    KIND: ClassVar[str]

    @abstractmethod
    def quality(self, bits: Bits, form: Form | NDArray[np.int64]) -> NDArray[np.float64]:
        """Predicted quality of a population, [members]; `form` is one for all, or their indices [members]."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write a file that `predictor_choice.load` reads."""


class Agreement(BaseModel):
    """How predictions and truth agree on samples that were not trained on; None where there is nothing to correlate.

    `kendall_error`: standard error of `kendall`, by leaving out the samples one by one. `noise`: standard deviation of
    the true quality's own noise in its unit, where it was estimated; it limits all others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    pearson: float | None
    kendall: float | None
    kendall_top_quartile: float | None
    rmse: float
    kendall_error: float | None = None
    noise: float | None = None

    @staticmethod
    def of(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> Agreement:
        """Of two arrays of equal length, in the unit of the quality."""
        top = true >= np.quantile(true, 0.75)
        return Agreement(
            samples=len(true),
            pearson=_statistic(stats.pearsonr, predicted, true),
            kendall=_statistic(stats.kendalltau, predicted, true),
            kendall_top_quartile=_statistic(stats.kendalltau, predicted[top], true[top]),
            rmse=float(np.sqrt(np.mean((predicted - true) ** 2))),
            kendall_error=_jackknife(predicted, true),
        )


def agreement(predictor: Predictor, samples: Sequence[Measured]) -> Agreement:
    """Agreement on some samples."""
    configurations = [sample.configuration for sample in samples]
    predicted = predictor.quality(bits_of(configurations), forms_of(configurations))
    return Agreement.of(predicted, np.array([sample.value for sample in samples]))


def learning_curve(
    train: Callable[[Sequence[Measured]], Predictor], samples: Sequence[Measured], held_out: Sequence[Measured],
    sizes: Sequence[int],
) -> dict[int, Agreement]:  # fmt: skip
    """Agreement on `held_out` of predictors trained on the first samples; sizes that there are not are left out."""
    return {size: agreement(train(samples[:size]), held_out) for size in sizes if size <= len(samples)}


def _jackknife(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> float | None:
    """Standard error of Kendall's coefficient, from those of all samples but one."""
    count = len(true)
    others = ~np.eye(count, dtype=bool)
    found = [_statistic(stats.kendalltau, predicted[rest], true[rest]) for rest in others]
    values = np.array([one for one in found if one is not None])
    if count < 3 or len(values) < count:
        return None
    return float(np.sqrt((count - 1) / count * np.square(values - values.mean()).sum()))


def _statistic(function: object, a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    assert callable(function)
    return float(function(a, b).statistic)
