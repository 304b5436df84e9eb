"""Entropy of the mixtures: what makes a search end in a choice, and how its weight grows over the epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum

import torch
from torch import Tensor


class EntropyReduction(StrEnum):
    """How the layers' entropies become one number. A sum is stronger the more layers a space has."""

    SUM = "sum"
    MEAN = "mean"


class Sparsity(StrEnum):
    """What pushes the mixtures towards a choice."""

    ENTROPY = "entropy"
    L1 = "l1"
    """Sum of the logits' absolute values."""
    L1_EXP = "l1_exp"
    """Sum of exp(logit)."""
    NONE = "none"


def entropy(logits: Tensor) -> Tensor:
    """H(softmax(logits)) in nats; exact, with a finite gradient, also where a probability underflows to 0."""
    log_p = torch.log_softmax(logits.flatten(), 0)
    return -(log_p.exp() * log_p.clamp(min=-1e4)).sum()


def sparsity_loss(logits: Iterable[Tensor], kind: Sparsity, reduction: EntropyReduction) -> Tensor:
    """The term before its coefficient; `logits`: one vector for each choice, those that cells share once."""
    terms = []
    for one in logits:
        if kind is Sparsity.ENTROPY:
            terms.append(entropy(one))
        elif kind is Sparsity.L1:
            terms.append(one.abs().sum())
        elif kind is Sparsity.L1_EXP:
            terms.append(one.exp().sum())
        else:
            terms.append(torch.zeros((), device=one.device))
    stacked = torch.stack(terms)
    return stacked.mean() if reduction is EntropyReduction.MEAN else stacked.sum()


def entropy_coefficient(epoch: int, epochs: int, warm_up: int, final: float) -> float:
    """A linear ramp times a logarithmic one that starts after a quarter of the epochs behind the warm-up.

    mu0 * tau / (T - 1) * [tau >= q] * ln(tau - q + 2) / ln(T - q + 1), T = epochs - warm_up, tau = epoch - warm_up,
    q = floor(T / 4); as in discretisation-aware search. The last epoch has exactly `final`.
    """
    span, tau = epochs - warm_up, epoch - warm_up
    if tau < 0:
        return 0.0
    if span <= 1:
        return final
    delay = span // 4
    if tau < delay:
        return 0.0
    return final * tau / (span - 1) * math.log(tau - delay + 2) / math.log(span - delay + 1)
