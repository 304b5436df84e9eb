"""How well a predictor does on networks that it was not fitted on: each architecture left out in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from bitwright.foundation.progress import track
from hw_profiles.latency_table import NetworkRow
from hw_profiles.model import Part
from hw_profiles.predictor.agreement import Agreement
from hw_profiles.predictor.correction import Method
from hw_profiles.predictor.kernel_model import KernelModel, Peaks
from hw_profiles.predictor.network_model import NetworkModel
from hw_profiles.predictor.observations import GRID, Observations
from hw_profiles.predictor.prediction import Source

UNLIKE = 0.05
"""A network of which more than this share of the time goes to kernels that no other has anything like is not judged."""


class FitReport(Part):
    """What was tried on held-out networks. `tried` is empty where fewer than two architectures were measured.

    `low` and `high` are the 10th and 90th percentile of measured / predicted of the chosen method. `unlike` names what
    was measured but not judged: without its own rows the table knows nothing of its costly kernels, which a prediction
    reports as `uncovered`.
    """

    chosen: Method
    tried: dict[Method, Agreement] = Field(default_factory=dict)
    held_out: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
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
    judged: set[str] = set()
    for method in track(methods, "judging predictors on held-out networks"):
        predicted, measured = [], []
        for name in names:
            kernels = KernelModel.fit(observations.without({name}), peaks, method)
            whole = NetworkModel.fit(observations.judged({*names, GRID} - {name}))
            for row in observations.judged({name}):
                times = [kernels.time(kernel) for kernel in row.kernels]
                if _share_unlike(row, [time.source for time in times]) > UNLIKE:
                    continue
                judged.add(name)
                predicted.append(whole.ms([time.ms for time in times]))
                measured.append(row.ms.p50)
        if predicted:
            tried[method] = Agreement.of(predicted, measured)
            ratios[method] = np.asarray(measured) / np.asarray(predicted)
    unlike = tuple(name for name in names if name not in judged)
    if not tried:
        return FitReport(chosen=methods[0], unlike=unlike)
    chosen = min(tried, key=lambda method: tried[method].median + tried[method].p90)
    low, high = (float(np.quantile(ratios[chosen], share)) for share in (0.1, 0.9))
    held_out = tuple(name for name in names if name in judged)
    return FitReport(chosen=chosen, tried=tried, held_out=held_out, unlike=unlike, low=low, high=high)


def _share_unlike(row: NetworkRow, sources: Sequence[Source]) -> float:
    """Share of the measured kernel time that went to kernels whose time could only be guessed from peaks."""
    guessed = sum(ms for ms, source in zip(row.kernel_ms, sources, strict=True) if source is Source.ROOFLINE)
    return guessed / max(sum(row.kernel_ms), 1e-9)
