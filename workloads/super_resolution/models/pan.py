"""PAN: pixel attention network (Zhao et al., ECCVW 2020, arXiv:2010.01073)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.architecture import Architecture, Network, StateDict, highest_index, out_channels
from workloads.receptive_field import chain_halo
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.models.scale_probe import most_consistent

SLOPE = 0.2


@dataclass(frozen=True)
class PANConfig:
    """Sizes of a PAN; the defaults are the paper's x4. Scale 4 has two upsampling stages, any other scale one."""

    scale: int = 4
    width: int = 40
    tail_width: int = 24
    blocks: int = 16

    @classmethod
    def from_state_dict(cls, state: StateDict) -> PANConfig:
        """Read the sizes off the weights' shapes; x2 and x3 have the same ones, and x2 is returned for both."""
        return cls(
            scale=4 if "upconv2.weight" in state else 2,
            width=out_channels(state, "conv_first"),
            tail_width=out_channels(state, "upconv1"),
            blocks=highest_index(state, r"SCPA_trunk\.(\d+)\.") + 1,
        )

    @property
    def stages(self) -> tuple[int, ...]:
        """The factor of each upsampling stage."""
        return (2, 2) if self.scale == 4 else (self.scale,)


class PixelAttention(nn.Module):
    """x * sigmoid(1x1 convolution of x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        return x * torch.sigmoid(self.conv(x))


class PAConv(nn.Module):
    """A 3x3 convolution gated by a 1x1 one, followed by a second 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.k2 = nn.Conv2d(width, width, 1)
        self.k3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.k4 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        mixed: Tensor = self.k4(self.k3(x) * torch.sigmoid(self.k2(x)))
        return mixed


class SCPA(nn.Module):
    """Self-calibrated block with pixel attention: a plain and an attentive half, joined by 1x1, with a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1_a = nn.Conv2d(width, half, 1, bias=False)
        self.conv1_b = nn.Conv2d(width, half, 1, bias=False)
        self.k1 = nn.Sequential(nn.Conv2d(half, half, 3, padding=1, bias=False))
        self.PAConv = PAConv(half)
        self.conv3 = nn.Conv2d(2 * half, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        plain = F.leaky_relu(self.k1(F.leaky_relu(self.conv1_a(x), SLOPE)), SLOPE)
        attentive = F.leaky_relu(self.PAConv(F.leaky_relu(self.conv1_b(x), SLOPE)), SLOPE)
        joined: Tensor = self.conv3(torch.cat([plain, attentive], dim=1))
        return joined + x


class PAN(Network):
    """RGB in 0..1, shape [N, 3, H, W] to [N, 3, scale * H, scale * W]."""

    def __init__(self, config: PANConfig) -> None:
        super().__init__()
        self.config = config
        self.conv_first = nn.Conv2d(3, config.width, 3, padding=1)
        self.SCPA_trunk = nn.Sequential(*(SCPA(config.width) for _ in range(config.blocks)))
        self.trunk_conv = nn.Conv2d(config.width, config.width, 3, padding=1)
        for stage in range(1, len(config.stages) + 1):
            incoming = config.width if stage == 1 else config.tail_width
            self.add_module(f"upconv{stage}", nn.Conv2d(incoming, config.tail_width, 3, padding=1))
            self.add_module(f"att{stage}", PixelAttention(config.tail_width))
            self.add_module(f"HRconv{stage}", nn.Conv2d(config.tail_width, config.tail_width, 3, padding=1))
        self.conv_last = nn.Conv2d(config.tail_width, 3, 3, padding=1)

    @property
    def io(self) -> SRFormat:
        """RGB in 0..1; each block reaches two pixels, each upsampling stage two of its own."""
        stages = self.config.stages
        reaches = [2 * self.config.blocks + 2, *(2 for _ in stages)]
        reaches[-1] += 1
        return SRFormat(
            self.config.scale, Color.RGB, 1.0, halo=chain_halo(list(zip(reaches, (*stages, 1), strict=True)))
        )

    def resolve(self, scale: int | None) -> Network:
        """One-stage weights have the same shapes for x2 and x3; None chooses by `most_consistent`."""
        if len(self.config.stages) > 1:
            return super().resolve(scale)
        candidates = {factor: self._with_scale(factor) for factor in (2, 3)}
        if scale is None:
            return most_consistent(candidates, channels=3)
        if scale not in candidates:
            raise ValueError(f"has no weights for x{scale}, only for x2 or x3")
        return candidates[scale]

    def _with_scale(self, scale: int) -> PAN:
        twin = PAN(replace(self.config, scale=scale))
        twin.load_state_dict(self.state_dict())
        return twin

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        first = self.conv_first(x)
        current = first + self.trunk_conv(self.SCPA_trunk(first))
        for stage, factor in enumerate(self.config.stages, start=1):
            current = F.interpolate(current, scale_factor=float(factor), mode="nearest")
            current = self.get_submodule(f"upconv{stage}")(current)
            current = F.leaky_relu(self.get_submodule(f"att{stage}")(current), SLOPE)
            current = F.leaky_relu(self.get_submodule(f"HRconv{stage}")(current), SLOPE)
        residual: Tensor = self.conv_last(current)
        enlarged = F.interpolate(x, scale_factor=float(self.config.scale), mode="bilinear", align_corners=False)
        return residual + enlarged


ARCHITECTURE = Architecture(
    name="pan",
    marks=("conv_first.weight", "SCPA_trunk.0.PAConv.k2.weight", "upconv1.weight", "att1.conv.weight"),
    build=lambda state: PAN(PANConfig.from_state_dict(state)),
    reference=lambda: PAN(PANConfig()),
)
