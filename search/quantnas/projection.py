"""From logits to the weights of a mixture: softmax, or one of the sampled alternatives of the authors' code."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor


class Projection(StrEnum):
    """How logits become weights while training; in evaluation they are the probabilities, see `probabilities`."""

    SOFTMAX = "softmax"
    GUMBEL = "gumbel"
    GUMBEL_HARD = "gumbel_hard"
    """One choice in the forward pass, the gradient of the soft one."""
    MASKED = "masked"
    """Each choice is kept with probability 2 / n, at least one, and the softmax is taken over those."""


GUMBELS = {Projection.GUMBEL, Projection.GUMBEL_HARD}


def scaled(logits: Tensor, kind: Projection, temperature: float) -> Tensor:
    """The logits whose softmax is the mixture: divided by the temperature, but not for Gumbel samples, which are drawn
    with softmax(logits) at any temperature; it only smooths them.
    """
    return logits if kind in GUMBELS else logits / temperature


def probabilities(logits: Tensor, kind: Projection, temperature: float) -> Tensor:
    """The mixture that a search stands for, [n]."""
    return torch.softmax(scaled(logits, kind, temperature), 0)


def project(logits: Tensor, kind: Projection, temperature: float, training: bool,
            generator: torch.Generator | None = None) -> Tensor:  # fmt: skip
    """Weights [n] that add up to 1. `temperature` divides the logits, of the plain softmax too (1: no effect).

    `generator`: of samples, on the logits' device; without it, torch's own.
    """
    if not training or kind is Projection.SOFTMAX:
        return probabilities(logits, kind, temperature)
    if kind is Projection.MASKED:
        drawn = torch.rand(len(logits), generator=generator, device=logits.device)
        chosen = drawn < 2 / len(logits)
        if not bool(chosen.any()):
            # Of independent draws, the least is anywhere with the same probability.
            chosen[int(drawn.argmin())] = True
        return torch.softmax((logits / temperature).masked_fill(~chosen, -torch.inf), 0)
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    soft = torch.softmax((logits + noise) / temperature, 0)
    if kind is Projection.GUMBEL:
        return soft
    hard = torch.zeros_like(soft).scatter_(0, soft.argmax(0, keepdim=True), 1.0)
    return hard - soft.detach() + soft
