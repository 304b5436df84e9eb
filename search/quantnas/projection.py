"""From logits to the weights of a mixture: softmax, or one of the sampled alternatives of the authors' code."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional as F


class Projection(StrEnum):
    """How logits become weights while training; in evaluation it is the softmax always."""

    SOFTMAX = "softmax"
    GUMBEL = "gumbel"
    GUMBEL_HARD = "gumbel_hard"
    """One choice in the forward pass, the gradient of the soft one."""
    MASKED = "masked"
    """Each choice is kept with probability 2 / n, at least one, and the softmax is taken over those."""


def project(logits: Tensor, kind: Projection, temperature: float, training: bool) -> Tensor:
    """Weights [n] that add up to 1. `temperature` divides the logits, of the plain softmax too (1: no effect)."""
    if kind in {Projection.GUMBEL, Projection.GUMBEL_HARD} and training:
        return F.gumbel_softmax(logits, tau=temperature, hard=kind is Projection.GUMBEL_HARD, dim=0)
    scaled = logits / temperature
    if kind is Projection.MASKED and training:
        chosen = torch.rand_like(logits) < 2 / len(logits)
        if not bool(chosen.any()):
            chosen[int(torch.randint(len(logits), ()))] = True
        scaled = scaled.masked_fill(~chosen, -torch.inf)
    return torch.softmax(scaled, 0)
