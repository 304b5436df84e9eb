"""Scores that tell checkpoints of a recovery training apart: how near the float network, not how good at the task.

Accuracy on held-out images moves in steps of one image, and a classifier may have learned its training images by heart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from workloads.workload import Predict, Sample


class LogitAgreement:
    """A score of classifiers: minus the mean squared error of their logits over the teacher's variance; 0 is best.

    `samples` hold batches [n, ...] on the CPU; the teacher's logits [n, classes] are computed once, here. Logits are
    taken without their mean over the classes, which no probability depends on. Not the divergence of probabilities: on
    images that a classifier is sure of it is next to nothing, and a few others decide.
    """

    def __init__(self, teacher: Predict, samples: Sequence[Sample]) -> None:
        self._samples = samples
        with torch.inference_mode():
            self._wanted = [_centred(teacher(sample.input)) for sample in samples]
            self._scale = float(torch.cat(self._wanted).square().mean())
        self._count = sum(logits.numel() for logits in self._wanted)

    def __call__(self, predict: Predict) -> float:
        """The score of a network."""
        with torch.no_grad():
            return self.of(predict(sample.input) for sample in self._samples)

    def of(self, logits: Iterable[Tensor]) -> float:
        """The score of what a network gave for each batch, [n, classes] each."""
        errors = ((_centred(found) - wanted).square().sum() for found, wanted in zip(logits, self._wanted, strict=True))
        return -sum(map(float, errors)) / self._count / self._scale


def _centred(logits: Tensor) -> Tensor:
    logits = logits.float()
    return logits - logits.mean(dim=1, keepdim=True)
