"""WDR: keeps weights near a uniform density, whose rounding error depends least on step and width (section 5.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

UNIFORM_KURTOSIS = 1.8
LEAST_DEVIATION = 1e-8
LEAST_VALUES = 256
"""Smaller tensors have no distribution to speak of."""


@dataclass(frozen=True)
class Shape:
    """Mean squared distance to the aimed kurtosis, and mean squared skewness, over the layers."""

    kurtosis: Tensor
    skewness: Tensor

    def loss(self, kurt_rate: float, skew_rate: float) -> Tensor:
        """The two terms weighed; the release's rates are 0.015 and 1.0, the paper writes none."""
        return kurt_rate * self.kurtosis + skew_rate * self.skewness


def moments(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(skewness, kurtosis) of all values of a tensor, in float32; kurtosis is not the excess."""
    flat = weight.float().reshape(-1)
    centred = flat - flat.mean()
    spread = centred.square().sum().div(max(1, flat.numel() - 1)).clamp_min(LEAST_DEVIATION**2).sqrt()
    unit = centred / spread
    squared = unit.square()
    return (squared * unit).mean(), squared.square().mean()


def shape_of(weights: Iterable[Tensor], target: float = UNIFORM_KURTOSIS) -> Shape:
    """The regulariser's two terms over some weights; needs no forward pass of the network."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        pairs = [moments(weight) for weight in weights]
    skews, kurts = (torch.stack(values) for values in zip(*pairs, strict=True))
    return Shape((kurts - target).square().mean(), skews.square().mean())
