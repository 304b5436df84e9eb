"""Enhanced spatial attention as a fixed part of a space: bias-free, with an activation in front of each convolution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright.foundation.errors import UsageError
from workloads.super_resolution.models.searched.operations import ConvSpec

MIN_INPUT_SIDE = 15
"""Least side in pixels for which the strided convolution and the pooling leave at least one cell."""

MakeUnit = Callable[[ConvSpec], nn.Module]


def esa_convs(width: int, inner: int) -> tuple[tuple[str, ConvSpec], ...]:
    """The convolutions of the attention, by name."""
    square = ConvSpec(inner, inner, (3, 3))
    return (
        ("reduce", ConvSpec(width, inner, (1, 1))),
        ("stride", ConvSpec(inner, inner, (3, 3), stride=2, padding=0)),
        ("first", square),
        ("second", square),
        ("third", square),
        ("direct", ConvSpec(inner, inner, (1, 1))),
        ("expand", ConvSpec(inner, width, (1, 1))),
    )


def coarse_sides(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes behind the strided convolution and behind the pooling; UsageError for sides that leave nothing there."""
    if min(height, width) < MIN_INPUT_SIDE:
        raise UsageError(f"attention needs inputs of at least {MIN_INPUT_SIDE} pixels a side, not {height}x{width}")
    strided = ((height - 3) // 2 + 1, (width - 3) // 2 + 1)
    return strided, ((strided[0] - 7) // 3 + 1, (strided[1] - 7) // 3 + 1)


class Attention(nn.Module):
    """Gates [N, width, H, W] by a map made at about a sixth of its resolution; H, W >= 15."""

    def __init__(self, width: int, inner: int, make: MakeUnit) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({name: make(conv) for name, conv in esa_convs(width, inner)})

    def forward(self, x: Tensor) -> Tensor:
        """Shape kept."""
        reduced = self.convs["reduce"](x)
        coarse = F.max_pool2d(self.convs["stride"](reduced), kernel_size=7, stride=3)
        coarse = self.convs["third"](self.convs["second"](self.convs["first"](coarse)))
        resized = F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.convs["expand"](resized + self.convs["direct"](reduced)))
