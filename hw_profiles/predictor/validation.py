"""How well a predictor does on networks that it was not fitted on: each architecture left out in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from bitwright.foundation.progress import track
from hw_profiles.model import Part
from hw_profiles.predictor.agreement import Agreement
from hw_profiles.predictor.correction import Method
from hw_profiles.predictor.kernel_model import KernelModel, Peaks
from hw_profiles.predictor.network_model import NetworkModel
from hw_profiles.predictor.observations import GRID, Observations


class FitReport(Part):
    """What was tried on held-out networks. `tried` is empty where fewer than two architectures were measured.

    `low` and `high` are the 10th and 90th percentile of measured / predicted of the chosen method.
    """

    chosen: Method
    tried: dict[Method, Agreement] = Field(default_factory=dict)
    held_out: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def agreement(self) -> Agreement | None:
        """Of the chosen method on held-out networks; None where none could be held out."""
        return self.tried.get(self.chosen)


def cross_validate(observations: Observations, peaks: Peaks | None, methods: Sequence[Method]) -> FitReport:
    """Fit each method without each architecture, predict its networks, and choose the least median + 90th percentile.

    A kernel that another architecture has too is then an exact measurement, as it will be in use. Without anything to
    hold out the first method is chosen.
    """
    names = observations.architectures()
    if len(names) < 2:
        return FitReport(chosen=methods[0])
    tried: dict[Method, Agreement] = {}
    ratios: dict[Method, np.ndarray] = {}
    for method in track(methods, "judging predictors on held-out networks"):
        predicted, measured = [], []
        for name in names:
            kernels = KernelModel.fit(observations.without({name}), peaks, method)
            whole = NetworkModel.fit(observations.judged({*names, GRID} - {name}))
            for row in observations.judged({name}):
                predicted.append(whole.ms([kernels.time(kernel).ms for kernel in row.kernels]))
                measured.append(row.ms.p50)
        tried[method] = Agreement.of(predicted, measured)
        ratios[method] = np.asarray(measured) / np.asarray(predicted)
    chosen = min(methods, key=lambda method: tried[method].median + tried[method].p90)
    low, high = (float(np.quantile(ratios[chosen], share)) for share in (0.1, 0.9))
    return FitReport(chosen=chosen, tried=tried, held_out=names, low=low, high=high)
