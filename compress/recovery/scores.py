"""Scores that tell checkpoints of a recovery training apart: how near the float network, not how good at the task.

Accuracy on held-out images moves in steps of one image, and a classifier may have learned its training images by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from workloads.workload import Predict, Sample


def logit_agreement(teacher: Predict, samples: Sequence[Sample]) -> Callable[[Predict], float]:
    """A score of classifiers: -KL(teacher's probabilities, theirs) in nats, mean over the images; 0 is best.

    `samples` hold batches [n, ...] on the CPU; the teacher's logits [n, classes] are computed once, here.
    """
    with torch.inference_mode():
        wanted = [functional.log_softmax(teacher(sample.input).float(), dim=1) for sample in samples]
    images = sum(len(logs) for logs in wanted)

    def score(predict: Predict) -> float:
        total = 0.0
        with torch.no_grad():
            for sample, logs in zip(samples, wanted, strict=True):
                found = functional.log_softmax(predict(sample.input).float(), dim=1)
                total += float(functional.kl_div(found, logs, reduction="sum", log_target=True))
        return -total / images

    return score
