"""IMDN: information multi-distillation network (Hui et al., ACM MM 2019, arXiv:1909.11856)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.architecture import Architecture, Network, StateDict, highest_index, out_channels, shuffle_factor
from workloads.super_resolution.format import Color, SRFormat

SLOPE = 0.05


@dataclass(frozen=True)
class IMDNConfig:
    """Sizes of an IMDN; the defaults are the paper's x4. `distilled` of `width` channels are kept at each split."""

    scale: int = 4
    width: int = 64
    distilled: int = 16
    blocks: int = 6
    attention_inner: int = 4

    @classmethod
    def from_state_dict(cls, state: StateDict) -> IMDNConfig:
        """Read the sizes off the weights' shapes."""
        return cls(
            scale=shuffle_factor(out_channels(state, "upsampler.0"), 3),
            width=out_channels(state, "fea_conv"),
            distilled=out_channels(state, "IMDB1.c4"),
            blocks=highest_index(state, r"IMDB(\d+)\."),
            attention_inner=out_channels(state, "IMDB1.cca.conv_du.0"),
        )


class CCA(nn.Module):
    """Contrast-aware channel attention: each channel is gated by its mean plus its standard deviation over H and W."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(nn.Conv2d(width, inner, 1), nn.ReLU(), nn.Conv2d(inner, width, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, width, H, W] to the same; the standard deviation is the biased one (divided by H * W)."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        centred = x - mean
        deviation = torch.sqrt((centred * centred).mean(dim=(2, 3), keepdim=True))
        gate: Tensor = self.conv_du(deviation + mean)
        return x * gate


class IMDB(nn.Module):
    """Information multi-distillation block: three times convolve, keep `distilled` channels, refine the others."""

    def __init__(self, width: int, distilled: int, attention_inner: int | None) -> None:
        super().__init__()
        self.parts = [distilled, width - distilled]
        self.c1 = nn.Conv2d(width, width, 3, padding=1)
        self.c2 = nn.Conv2d(width - distilled, width, 3, padding=1)
        self.c3 = nn.Conv2d(width - distilled, width, 3, padding=1)
        self.c4 = nn.Conv2d(width - distilled, distilled, 3, padding=1)
        self.cca = nn.Identity() if attention_inner is None else CCA(4 * distilled, attention_inner)
        self.c5 = nn.Conv2d(4 * distilled, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, width, H, W] to the same."""
        kept1, rest = torch.split(F.leaky_relu(self.c1(x), SLOPE), self.parts, dim=1)
        kept2, rest = torch.split(F.leaky_relu(self.c2(rest), SLOPE), self.parts, dim=1)
        kept3, rest = torch.split(F.leaky_relu(self.c3(rest), SLOPE), self.parts, dim=1)
        kept4 = self.c4(rest)
        fused: Tensor = self.c5(self.cca(torch.cat([kept1, kept2, kept3, kept4], dim=1)))
        return fused + x


class IMDN(Network):
    """RGB in 0..1, shape [N, 3, H, W] to [N, 3, scale * H, scale * W]."""

    def __init__(self, config: IMDNConfig) -> None:
        super().__init__()
        self.config = config
        self.fea_conv = nn.Conv2d(3, config.width, 3, padding=1)
        self.names = [f"IMDB{i}" for i in range(1, config.blocks + 1)]
        for name in self.names:
            self.add_module(name, IMDB(config.width, config.distilled, config.attention_inner))
        self.c = nn.Sequential(nn.Conv2d(config.blocks * config.width, config.width, 1), nn.LeakyReLU(SLOPE))
        self.LR_conv = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(config.width, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    @property
    def io(self) -> SRFormat:
        """RGB in 0..1; no halo, because the channel attention looks at the whole input."""
        return SRFormat(self.config.scale, Color.RGB, 1.0, halo=None)

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
    name="imdn",
    marks=("fea_conv.weight", "IMDB1.c1.weight", "IMDB1.cca.conv_du.0.weight", "c.0.weight", "upsampler.0.weight"),
    build=lambda state: IMDN(IMDNConfig.from_state_dict(state)),
    reference=lambda: IMDN(IMDNConfig()),
)
