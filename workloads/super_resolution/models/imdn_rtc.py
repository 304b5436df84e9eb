"""IMDN_RTC: the real-time IMDN, a narrow trunk of distillation blocks without attention (arXiv:1909.11856)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from workloads.architecture import Architecture, Network, StateDict, highest_index, out_channels, shuffle_factor
from workloads.receptive_field import chain_halo
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.models.imdn import IMDB


@dataclass(frozen=True)
class IMDNRTCConfig:
    """Sizes of an IMDN_RTC; the defaults are the published x2."""

    scale: int = 2
    width: int = 12
    distilled: int = 3
    blocks: int = 5

    @classmethod
    def from_state_dict(cls, state: StateDict) -> IMDNRTCConfig:
        """Read the sizes off the weights' shapes."""
        return cls(
            scale=shuffle_factor(out_channels(state, "model.2"), 3),
            width=out_channels(state, "model.0"),
            distilled=out_channels(state, "model.1.sub.0.c4"),
            blocks=highest_index(state, r"model\.1\.sub\.(\d+)\."),
        )


class Shortcut(nn.Module):
    """x + sub(x)."""

    def __init__(self, sub: nn.Sequential) -> None:
        super().__init__()
        self.sub = sub

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        inner: Tensor = self.sub(x)
        return x + inner


class IMDNRTC(Network):
    """RGB in 0..1, shape [N, 3, H, W] to [N, 3, scale * H, scale * W]."""

    def __init__(self, config: IMDNRTCConfig) -> None:
        super().__init__()
        self.config = config
        trunk = [IMDB(config.width, config.distilled, attention_inner=None) for _ in range(config.blocks)]
        self.model = nn.Sequential(
            nn.Conv2d(3, config.width, 3, padding=1),
            Shortcut(nn.Sequential(*trunk, nn.Conv2d(config.width, config.width, 1))),
            nn.Conv2d(config.width, 3 * config.scale**2, 3, padding=1),
            nn.PixelShuffle(config.scale),
        )

    @property
    def io(self) -> SRFormat:
        """RGB in 0..1; each block reaches four pixels."""
        halo = chain_halo([(1 + 4 * self.config.blocks + 1, self.config.scale)])
        return SRFormat(self.config.scale, Color.RGB, 1.0, halo=halo)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        enlarged: Tensor = self.model(x)
        return enlarged


ARCHITECTURE = Architecture(
    name="imdn_rtc",
    marks=("model.0.weight", "model.1.sub.0.c1.weight", "model.1.sub.0.c4.weight", "model.2.weight"),
    build=lambda state: IMDNRTC(IMDNRTCConfig.from_state_dict(state)),
    reference=lambda: IMDNRTC(IMDNRTCConfig()),
)
