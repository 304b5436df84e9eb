"""Scores that tell checkpoints of a recovery training apart: how near the float network, not how good at the task.

Accuracy on held-out images moves in steps of one image, and a classifier may have learned its training images by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workloads.workload import Predict, Sample


def logit_agreement(teacher: Predict, samples: Sequence[Sample]) -> Callable[[Predict], float]:
    """A score of classifiers: minus the mean squared error of their logits over the teacher's variance; 0 is best.

    `samples` hold batches [n, ...] on the CPU; the teacher's logits [n, classes] are computed once, here. Logits are
    taken without their mean over the classes, which no probability depends on. Not the divergence of probabilities: on
    images that a classifier is sure of it is next to nothing, and a few others decide.
    """
    with torch.inference_mode():
        wanted = [_centred(teacher(sample.input)) for sample in samples]
        scale = float(torch.cat(wanted).square().mean())
    count = sum(logits.numel() for logits in wanted)

    def score(predict: Predict) -> float:
        total = 0.0
        with torch.no_grad():
            for sample, logits in zip(samples, wanted, strict=True):
                total += float((_centred(predict(sample.input)) - logits).square().sum())
        return -total / count / scale

    return score


def _centred(logits: Tensor) -> Tensor:
    logits = logits.float()
    return logits - logits.mean(dim=1, keepdim=True)
