"""The loss of recovery: distance to the float teacher at the output and at inner tensors, and to the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from compress.recovery.settings import OutputLoss, RecoverySettings

TaskLoss = Callable[[Tensor, Tensor], Tensor]


class RecoveryLoss:
    """A weighted sum of three terms. `spreads`: variance of the teacher's output and of each tapped tensor."""

    def __init__(self, settings: RecoverySettings, spreads: Sequence[Tensor], task_loss: TaskLoss | None) -> None:
        self._settings, self._spreads, self._task_loss = settings, list(spreads), task_loss

    def __call__(self, outputs: Sequence[Tensor], teacher: Sequence[Tensor], target: Tensor, past: Tensor | None,
                 progress: float | Tensor) -> Tensor:  # fmt: skip
        """The loss of (output, taps ...) against the teacher's. A mean over samples, so that shards can be averaged.

        `past`: logits of the model's own past; `progress` in [0, 1] is the share of the training that is done.
        """
        s = self._settings
        terms = []
        if s.output_weight:
            terms.append(s.output_weight * output_loss(s.output, outputs[0], teacher[0], self._spreads[0]))
        if s.feature_weight and len(outputs) > 1:
            parts = [
                torch.mean((y - t) ** 2) / v
                for y, t, v in zip(outputs[1:], teacher[1:], self._spreads[1:], strict=True)
            ]
            terms.append(s.feature_weight * torch.stack(parts).mean())
        if s.truth_weight and self._task_loss is not None:
            if past is not None:
                truth = softened_cross_entropy(outputs[0], target, past, s.self_distillation * progress)
            else:
                truth = self._task_loss(outputs[0], target)
            terms.append(s.truth_weight * truth)
        return torch.stack(terms).sum()


def output_loss(kind: OutputLoss, output: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """Distance of two outputs, a scalar; `variance` [] makes it independent of the value range."""
    if kind is OutputLoss.L1:
        return functional.l1_loss(output, teacher) / variance.sqrt()
    if kind is OutputLoss.L2:
        return functional.mse_loss(output, teacher) / variance
    logs = functional.log_softmax(output.float(), dim=1), functional.log_softmax(teacher.float(), dim=1)
    return functional.kl_div(*logs, reduction="batchmean", log_target=True)


def softened_cross_entropy(logits: Tensor, labels: Tensor, past: Tensor, share: float | Tensor) -> Tensor:
    """Cross-entropy against labels of which `share` is given to the past model's probabilities (PS-KD, 2006.12000)."""
    hard = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return functional.cross_entropy(logits, (1 - share) * hard + share * functional.softmax(past, dim=1))
