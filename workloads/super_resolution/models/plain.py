"""PlainSR: 3x3 convolutions with ReLU at constant width, for devices that like nothing else.

The residual is added to the input repeated for each subpixel, which after the pixel shuffle is nearest-neighbour
enlargement; the anchor of ABPN (Du et al., CVPRW 2021, arXiv:2105.09750).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.architecture import (
    Architecture,
    Network,
    StateDict,
    highest_index,
    in_channels,
    out_channels,
    shuffle_factor,
)
from workloads.receptive_field import chain_halo
from workloads.super_resolution.format import Color, SRFormat


@dataclass(frozen=True)
class PlainSRConfig:
    """Sizes of a PlainSR: `depth` convolutions in all (at least 2), the inner ones `width` to `width` channels."""

    scale: int = 4
    width: int = 32
    depth: int = 8
    channels: int = 3

    def __post_init__(self) -> None:
        """Refuse a network without a first and a last convolution."""
        if self.depth < 2:
            raise ValueError(f"depth must be at least 2, not {self.depth}")

    @classmethod
    def from_state_dict(cls, state: StateDict) -> PlainSRConfig:
        """Read the sizes off the weights' shapes."""
        last = highest_index(state, r"convs\.(\d+)\.")
        channels = in_channels(state, "convs.0")
        return cls(
            scale=shuffle_factor(out_channels(state, f"convs.{last}"), channels),
            width=out_channels(state, "convs.0"),
            depth=last + 1,
            channels=channels,
        )


class PlainSR(Network):
    """RGB (or studio-range Y) in 0..1, shape [N, C, H, W] to [N, C, scale * H, scale * W]."""

    anchor: Tensor

    def __init__(self, config: PlainSRConfig) -> None:
        super().__init__()
        self.config = config
        subpixels = config.channels * config.scale**2
        widths = [config.channels, *[config.width] * (config.depth - 1), subpixels]
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        repeated = torch.arange(config.channels).repeat_interleave(config.scale**2)
        self.register_buffer("anchor", repeated, persistent=False)

    @property
    def io(self) -> SRFormat:
        """Values in 0..1; each convolution reaches one pixel."""
        color = Color.RGB if self.config.channels == 3 else Color.Y
        return SRFormat(self.config.scale, color, 1.0, halo=chain_halo([(self.config.depth, self.config.scale)]))

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        current = x
        for index, conv in enumerate(self.convs):
            current = F.relu(conv(current)) if index < self.config.depth - 1 else conv(current)
        return F.pixel_shuffle(current + torch.index_select(x, 1, self.anchor), self.config.scale)


ARCHITECTURE = Architecture(
    name="plain",
    marks=("convs.0.weight", "convs.1.weight"),
    build=lambda state: PlainSR(PlainSRConfig.from_state_dict(state)),
    reference=lambda: PlainSR(PlainSRConfig()),
)
