"""EDSR and EDSR-baseline: residual blocks without normalisation (Lim et al., CVPRW 2017, arXiv:1707.02921).

Keys are those of EDSR-PyTorch; basicsr's names are translated. basicsr's network takes 0..1 and multiplies by 255
inside, so its weights serve this network, which takes 0..255.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workloads.architecture import Architecture, Network, StateDict, highest_index, out_channels, shuffle_factor
from workloads.receptive_field import chain_halo
from workloads.super_resolution.format import Color, SRFormat

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
LARGE_WIDTH = 256


@dataclass(frozen=True)
class EDSRConfig:
    """Sizes of an EDSR; the defaults are EDSR-baseline x4.

    `residual_scale` is not in the weights: the paper uses 0.1 in the 256-channel network and 1 in the baseline.
    """

    scale: int = 4
    width: int = 64
    blocks: int = 16
    residual_scale: float = 1.0
    value_max: float = 255.0

    @classmethod
    def from_state_dict(cls, state: StateDict) -> EDSRConfig:
        """Read the sizes off the weights' shapes, and the value range off the mean colour (beyond 1: 0..255)."""
        width = out_channels(state, "head.0")
        first = shuffle_factor(out_channels(state, "tail.0.0"), width)
        return cls(
            scale=4 if "tail.0.2.weight" in state else first,
            width=width,
            blocks=highest_index(state, r"body\.(\d+)\."),
            residual_scale=0.1 if width >= LARGE_WIDTH else 1.0,
            value_max=255.0 if float(state["add_mean.bias"].abs().max()) > 1.0 else 1.0,
        )


class ResidualBlock(nn.Module):
    """x + residual_scale * conv(relu(conv(x)))."""

    def __init__(self, width: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        residual: Tensor = self.body(x)
        return x + (residual if self.residual_scale == 1.0 else residual * self.residual_scale)


class EDSR(Network):
    """RGB in 0..value_max, shape [N, 3, H, W] to [N, 3, scale * H, scale * W]."""

    def __init__(self, config: EDSRConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.sub_mean, self.add_mean = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.head = nn.Sequential(nn.Conv2d(3, width, 3, padding=1))
        blocks = [ResidualBlock(width, config.residual_scale) for _ in range(config.blocks)]
        self.body = nn.Sequential(*blocks, nn.Conv2d(width, width, 3, padding=1))
        layers: list[nn.Module] = []
        for factor in _factors(config.scale):
            layers += [nn.Conv2d(width, width * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        self.tail = nn.Sequential(nn.Sequential(*layers), nn.Conv2d(width, 3, 3, padding=1))

    @property
    def io(self) -> SRFormat:
        """RGB; each block reaches two pixels."""
        factors = _factors(self.config.scale)
        reaches = [1 + 2 * self.config.blocks + 2, *(1 for _ in factors)]
        halo = chain_halo(list(zip(reaches, (*factors, 1), strict=True)))
        return SRFormat(self.config.scale, Color.RGB, self.config.value_max, halo=halo)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        first = self.head(self.sub_mean(x))
        enlarged: Tensor = self.add_mean(self.tail(first + self.body(first)))
        return enlarged


def _factors(scale: int) -> tuple[int, ...]:
    return (2, 2) if scale == 4 else (scale,)


def from_basicsr(state: StateDict) -> dict[str, Tensor]:
    """basicsr's names to ours, with the DIV2K mean colour that basicsr keeps outside the state dict."""
    last = highest_index(state, r"body\.(\d+)\.") + 1
    rules = (
        (r"^conv_first\.", "head.0."),
        (r"^body\.(\d+)\.conv1\.", r"body.\1.body.0."),
        (r"^body\.(\d+)\.conv2\.", r"body.\1.body.2."),
        (r"^conv_after_body\.", f"body.{last}."),
        (r"^upsample\.(\d+)\.", r"tail.0.\1."),
        (r"^conv_last\.", "tail.1."),
    )
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    mean = 255.0 * torch.tensor(DIV2K_MEAN)
    for name, sign in (("sub_mean", -1.0), ("add_mean", 1.0)):
        renamed[f"{name}.weight"] = torch.eye(3).reshape(3, 3, 1, 1)
        renamed[f"{name}.bias"] = sign * mean
    return renamed


ARCHITECTURE = Architecture(
    name="edsr",
    marks=("sub_mean.weight", "add_mean.bias", "head.0.weight", "body.0.body.0.weight", "tail.0.0.weight"),
    build=lambda state: EDSR(EDSRConfig.from_state_dict(state)),
    reference=lambda: EDSR(EDSRConfig()),
)

BASICSR_ARCHITECTURE = Architecture(
    name="edsr",
    marks=("conv_first.weight", "body.0.conv1.weight", "conv_after_body.weight", "upsample.0.weight"),
    build=lambda state: EDSR(EDSRConfig.from_state_dict(state)),
    reference=lambda: EDSR(EDSRConfig()),
    translate=from_basicsr,
)
