"""SRResNet: residual blocks with batch normalisation and PReLU (Ledig et al., CVPR 2017, arXiv:1609.04802)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from workloads.architecture import Architecture, Network, StateDict, highest_index, out_channels, shuffle_factor
from workloads.receptive_field import chain_halo
from workloads.super_resolution.format import Color, SRFormat

EDGE_KERNEL = 9


@dataclass(frozen=True)
class SRResNetConfig:
    """Sizes of an SRResNet; the defaults are the paper's x4: `stages` upsampling stages of `factor` each."""

    width: int = 64
    blocks: int = 16
    factor: int = 2
    stages: int = 2

    @classmethod
    def from_state_dict(cls, state: StateDict) -> SRResNetConfig:
        """Read the sizes off the weights' shapes."""
        width = out_channels(state, "conv1.0")
        return cls(
            width=width,
            blocks=highest_index(state, r"trunk\.(\d+)\.") + 1,
            factor=shuffle_factor(out_channels(state, "upsampling.0.upsample_block.0"), width),
            stages=highest_index(state, r"upsampling\.(\d+)\.") + 1,
        )

    @property
    def scale(self) -> int:
        """The factor of all stages together."""
        return int(self.factor**self.stages)


class ResidualBlock(nn.Module):
    """x + bn(conv(prelu(bn(conv(x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rcb = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        residual: Tensor = self.rcb(x)
        return x + residual


class UpsampleStage(nn.Module):
    """Convolution, pixel shuffle, PReLU."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.upsample_block = nn.Sequential(
            nn.Conv2d(width, width * factor**2, 3, padding=1), nn.PixelShuffle(factor), nn.PReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, width, H, W] to [N, width, factor * H, factor * W]."""
        enlarged: Tensor = self.upsample_block(x)
        return enlarged


class SRResNet(Network):
    """RGB in 0..1, shape [N, 3, H, W] to [N, 3, scale * H, scale * W]."""

    def __init__(self, config: SRResNetConfig) -> None:
        super().__init__()
        self.config = config
        width, margin = config.width, EDGE_KERNEL // 2
        self.conv1 = nn.Sequential(nn.Conv2d(3, width, EDGE_KERNEL, padding=margin), nn.PReLU())
        self.trunk = nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks)))
        self.conv2 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.upsampling = nn.Sequential(*(UpsampleStage(width, config.factor) for _ in range(config.stages)))
        self.conv3 = nn.Conv2d(width, 3, EDGE_KERNEL, padding=margin)

    @property
    def io(self) -> SRFormat:
        """RGB in 0..1; each block reaches two pixels, the outer convolutions four."""
        margin, stages = EDGE_KERNEL // 2, self.config.stages
        reaches = [margin + 2 * self.config.blocks + 2, *(1 for _ in range(stages - 1)), margin]
        factors = [self.config.factor] * stages + [1]
        halo = chain_halo(list(zip(reaches, factors, strict=True)))
        return SRFormat(self.config.scale, Color.RGB, 1.0, halo=halo)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        first = self.conv1(x)
        enlarged: Tensor = self.conv3(self.upsampling(first + self.conv2(self.trunk(first))))
        return enlarged


ARCHITECTURE = Architecture(
    name="srresnet",
    marks=("conv1.0.weight", "trunk.0.rcb.0.weight", "conv2.0.weight", "upsampling.0.upsample_block.0.weight"),
    build=lambda state: SRResNet(SRResNetConfig.from_state_dict(state)),
    reference=lambda: SRResNet(SRResNetConfig()),
)
