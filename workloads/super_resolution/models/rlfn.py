"""RLFN: residual local feature network (Kong et al., CVPRW 2022, arXiv:2205.07514), and its NTIRE 2022 variant."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from workloads.architecture import Architecture, Network, StateDict, highest_index, out_channels, shuffle_factor
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.models.esa import ESA, MIN_INPUT_SIDE, inner_channels

SLOPE = 0.05


@dataclass(frozen=True)
class RLFNConfig:
    """Sizes of an RLFN; the defaults are the paper's x4. `inner` differs from `width` in the NTIRE variant only."""

    scale: int = 4
    width: int = 52
    inner: int = 52
    blocks: int = 6
    esa_inner: int = 16

    @classmethod
    def from_state_dict(cls, state: StateDict) -> RLFNConfig:
        """Read the sizes off the weights' shapes."""
        return cls(
            scale=shuffle_factor(out_channels(state, "upsampler.0"), 3),
            width=out_channels(state, "conv_1"),
            inner=out_channels(state, "block_1.c1_r"),
            blocks=highest_index(state, r"block_(\d+)\."),
            esa_inner=inner_channels(state, "block_1.esa"),
        )


class RLFB(nn.Module):
    """Residual local feature block: three convolutions with activation, skip, 1x1, ESA."""

    def __init__(self, config: RLFNConfig) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(config.width, config.inner, 3, padding=1)
        self.c2_r = nn.Conv2d(config.inner, config.inner, 3, padding=1)
        self.c3_r = nn.Conv2d(config.inner, config.width, 3, padding=1)
        self.c5 = nn.Conv2d(config.width, config.width, 1)
        self.esa = ESA(config.width, config.esa_inner, deep=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, width, H, W] to the same."""
        local = F.leaky_relu(self.c1_r(x), SLOPE)
        local = F.leaky_relu(self.c2_r(local), SLOPE)
        local = F.leaky_relu(self.c3_r(local), SLOPE)
        gated: Tensor = self.esa(self.c5(local + x))
        return gated


class RLFN(Network):
    """RGB in 0..255, shape [N, 3, H, W] to [N, 3, scale * H, scale * W]; H, W >= 15."""

    def __init__(self, config: RLFNConfig) -> None:
        super().__init__()
        self.config = config
        self.conv_1 = nn.Conv2d(3, config.width, 3, padding=1)
        self.names = [f"block_{i}" for i in range(1, config.blocks + 1)]
        for name in self.names:
            self.add_module(name, RLFB(config))
        self.conv_2 = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(config.width, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    @property
    def io(self) -> SRFormat:
        """RGB in 0..255; no halo, because the ESA resize depends on the size of the whole input."""
        return SRFormat(self.config.scale, Color.RGB, 255.0, min_input_side=MIN_INPUT_SIDE, halo=None)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        first = self.conv_1(x)
        current = first
        for name in self.names:
            current = self.get_submodule(name)(current)
        enlarged: Tensor = self.upsampler(self.conv_2(current) + first)
        return enlarged


ARCHITECTURE = Architecture(
    name="rlfn",
    marks=("conv_1.weight", "block_1.c1_r.weight", "block_1.esa.conv1.weight", "conv_2.weight", "upsampler.0.weight"),
    build=lambda state: RLFN(RLFNConfig.from_state_dict(state)),
    reference=lambda: RLFN(RLFNConfig()),
)
