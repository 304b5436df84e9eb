"""What a search among subnets maximises: the task's metric for images; for classes, how near the logits are to float.

Top-1 moves in steps of one image and is next to constant among the better half of the subnets, which have learnt their
training images by heart: noise would order them. How far their logits are from the float network's has neither fault,
is the same on other images, and orders subnets by their top-1 on images that none has seen better than top-1 on a
thousand held out does (`python -m benchmarks.eqnet_mixed`). Ours; the paper predicts top-1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from compress.recovery.scores import LogitAgreement
from search.eqnet.samples import Measured, Scored
from workloads.classification.task import Classification
from workloads.workload import Predict, Sample, Workload

SQNR = "SQNR of logits"
DECIBEL = "dB"
HIGHEST = 100.0
"""dB, at which an error counts as none."""


class Measure:
    """True quality of networks on `samples`, higher is better; `teacher` is the float network.

    `name` and `unit` are those of the quality. For classes it is the signal-to-quantisation-noise ratio of the logits,
    -10 log10(error power / power), both without their mean over the classes.
    """

    def __init__(self, workload: Workload, samples: Sequence[Sample], teacher: Predict) -> None:
        self.workload, self.samples = workload, samples
        self.agreement = LogitAgreement(teacher, samples) if isinstance(workload, Classification) else None
        self.name, self.unit = (SQNR, DECIBEL) if self.agreement is not None else (workload.metric, workload.unit)

    def __call__(self, predict: Predict) -> Scored:
        """Quality of a network; its secondary metrics, for classes the task's as well, are in `extra`."""
        if self.agreement is None:
            with torch.inference_mode():
                whole = self.workload.evaluate(predict, self.samples)
            return Scored(whole.mean, whole.extra)
        outputs: list[Tensor] = []

        def recorded(x: Tensor) -> Tensor:
            outputs.append(predict(x))
            return outputs[-1]

        with torch.inference_mode():
            found = self.workload.evaluate(recorded, self.samples)
            error = -self.agreement.of(outputs)
        return Scored(decibels(error), {self.workload.metric: found.mean, **found.extra})

    def metric_of(self, samples: Sequence[Measured]) -> Metric:
        """The task's metric by quality, as `samples` have both."""
        if self.agreement is None:
            return Metric()
        return Metric([s.value for s in samples], [s.extra[self.workload.metric] for s in samples])


class Metric:
    """The task's metric that a quality stands for: the nearest curve through both that never falls; else the same."""

    def __init__(self, qualities: Sequence[float] = (), metrics: Sequence[float] = ()) -> None:
        self.curve = None
        if len(qualities):
            self.curve = IsotonicRegression(out_of_bounds="clip").fit(qualities, metrics)

    def __call__(self, quality: float) -> float:
        """The metric at a quality; beyond those that are known, that of the last one."""
        return quality if self.curve is None else float(self.curve.predict([quality])[0])


def decibels(error: float) -> float:
    """-10 log10 of a relative error power, at most HIGHEST."""
    return min(HIGHEST, -10 * math.log10(error)) if error > 0 else HIGHEST
