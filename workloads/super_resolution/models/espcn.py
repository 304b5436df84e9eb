"""ESPCN: three convolutions and a pixel shuffle (Shi et al., CVPR 2016, arXiv:1609.05158)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.architecture import Architecture, Network, StateDict, out_channels, shuffle_factor
from workloads.receptive_field import chain_halo
from workloads.super_resolution.format import Color, Luma, SRFormat


@dataclass(frozen=True)
class ESPCNConfig:
    """Sizes of an ESPCN; the widths are the paper's."""

    scale: int = 3
    width: int = 64
    inner: int = 32

    @classmethod
    def from_state_dict(cls, state: StateDict) -> ESPCNConfig:
        """Read the sizes off the weights' shapes."""
        return cls(
            scale=shuffle_factor(out_channels(state, "conv3"), 1),
            width=out_channels(state, "conv1"),
            inner=out_channels(state, "conv2"),
        )


class ESPCN(Network):
    """Y (full range) / 255, shape [N, 1, H, W] to [N, 1, scale * H, scale * W]."""

    def __init__(self, config: ESPCNConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(1, config.width, 5, padding=2)
        self.conv2 = nn.Conv2d(config.width, config.inner, 3, padding=1)
        self.conv3 = nn.Conv2d(config.inner, config.scale**2, 3, padding=1)

    @property
    def io(self) -> SRFormat:
        """Full-range Y in 0..1."""
        halo = chain_halo([(2 + 1 + 1, self.config.scale)])
        return SRFormat(self.config.scale, Color.Y, 1.0, luma=Luma.FULL, halo=halo)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        features = F.relu(self.conv2(F.relu(self.conv1(x))))
        return torch.tanh(F.pixel_shuffle(self.conv3(features), self.config.scale))


ARCHITECTURE = Architecture(
    name="espcn",
    marks=("conv1.weight", "conv2.weight", "conv3.weight"),
    build=lambda state: ESPCN(ESPCNConfig.from_state_dict(state)),
    reference=lambda: ESPCN(ESPCNConfig()),
)
