"""RFDN: residual feature distillation network (Liu et al., AIM 2020, arXiv:2009.11551)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.architecture import (
    Architecture,
    Network,
    StateDict,
    highest_index,
    out_channels,
    shuffle_factor,
)
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.models.esa import ESA, MIN_INPUT_SIDE, inner_channels

SLOPE = 0.05


@dataclass(frozen=True)
class RFDNConfig:
    """Sizes of an RFDN; the defaults are the AIM 2020 winner's."""

    scale: int = 4
    width: int = 50
    distilled: int = 25
    blocks: int = 4
    esa_inner: int = 12

    @classmethod
    def from_state_dict(cls, state: StateDict) -> RFDNConfig:
        """Read the sizes off the weights' shapes."""
        return cls(
            scale=shuffle_factor(out_channels(state, "upsampler.0"), 3),
            width=out_channels(state, "fea_conv"),
            distilled=out_channels(state, "B1.c1_d"),
            blocks=highest_index(state, r"B(\d+)\."),
            esa_inner=inner_channels(state, "B1.esa"),
        )


class RFDB(nn.Module):
    """Residual feature distillation block: three refinements, each leaving a distilled slice behind, then ESA."""

    def __init__(self, config: RFDNConfig) -> None:
        super().__init__()
        width, distilled = config.width, config.distilled
        self.c1_d = nn.Conv2d(width, distilled, 1)
        self.c1_r = nn.Conv2d(width, width, 3, padding=1)
        self.c2_d = nn.Conv2d(width, distilled, 1)
        self.c2_r = nn.Conv2d(width, width, 3, padding=1)
        self.c3_d = nn.Conv2d(width, distilled, 1)
        self.c3_r = nn.Conv2d(width, width, 3, padding=1)
        self.c4 = nn.Conv2d(width, distilled, 3, padding=1)
        self.c5 = nn.Conv2d(4 * distilled, width, 1)
        self.esa = ESA(width, config.esa_inner, deep=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, width, H, W] to the same."""
        kept1 = F.leaky_relu(self.c1_d(x), SLOPE)
        x1 = F.leaky_relu(self.c1_r(x) + x, SLOPE)
        kept2 = F.leaky_relu(self.c2_d(x1), SLOPE)
        x2 = F.leaky_relu(self.c2_r(x1) + x1, SLOPE)
        kept3 = F.leaky_relu(self.c3_d(x2), SLOPE)
        x3 = F.leaky_relu(self.c3_r(x2) + x2, SLOPE)
        kept4 = F.leaky_relu(self.c4(x3), SLOPE)
        gated: Tensor = self.esa(self.c5(torch.cat([kept1, kept2, kept3, kept4], dim=1)))
        return gated


class RFDN(Network):
    """RGB in 0..255, shape [N, 3, H, W] to [N, 3, scale * H, scale * W]; H, W >= 15."""

    def __init__(self, config: RFDNConfig) -> None:
        super().__init__()
        self.config = config
        self.fea_conv = nn.Conv2d(3, config.width, 3, padding=1)
        self.names = [f"B{i}" for i in range(1, config.blocks + 1)]
        for name in self.names:
            self.add_module(name, RFDB(config))
        self.c = nn.Sequential(nn.Conv2d(config.blocks * config.width, config.width, 1), nn.LeakyReLU(SLOPE))
        self.LR_conv = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(config.width, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    @property
    def io(self) -> SRFormat:
        """RGB in 0..255; no halo, because the ESA resize depends on the size of the whole input."""
        return SRFormat(self.config.scale, Color.RGB, 255.0, min_input_side=MIN_INPUT_SIDE, halo=None)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        first = self.fea_conv(x)
        current, outputs = first, []
        for name in self.names:
            current = self.get_submodule(name)(current)
            outputs.append(current)
        fused = self.LR_conv(self.c(torch.cat(outputs, dim=1))) + first
        enlarged: Tensor = self.upsampler(fused)
        return enlarged


ARCHITECTURE = Architecture(
    name="rfdn",
    marks=("fea_conv.weight", "B1.c1_d.weight", "B1.esa.conv_max.weight", "c.0.weight", "upsampler.0.weight"),
    build=lambda state: RFDN(RFDNConfig.from_state_dict(state)),
    reference=lambda: RFDN(RFDNConfig()),
)
