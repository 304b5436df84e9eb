"""MSRResNet: SRResNet without batch normalisation, as modified for ESRGAN (Wang et al., 2018, arXiv:1809.00219)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from workloads.architecture import Architecture, Network, StateDict, highest_index, out_channels, shuffle_factor
from workloads.receptive_field import chain_halo
from workloads.super_resolution.format import Color, SRFormat

SLOPE = 0.1


@dataclass(frozen=True)
class MSRResNetConfig:
    """Sizes of an MSRResNet; the defaults are the usual x4. Scale 4 has two upsampling stages, 2 and 3 one."""

    scale: int = 4
    width: int = 64
    blocks: int = 16

    @classmethod
    def from_state_dict(cls, state: StateDict) -> MSRResNetConfig:
        """Read the sizes off the weights' shapes."""
        width = out_channels(state, "conv_first")
        first = shuffle_factor(out_channels(state, "upconv1"), width)
        return cls(
            scale=4 if "upconv2.weight" in state else first,
            width=width,
            blocks=highest_index(state, r"body\.(\d+)\.") + 1,
        )

    @property
    def stages(self) -> tuple[int, ...]:
        """The factor of each upsampling stage."""
        return (2, 2) if self.scale == 4 else (self.scale,)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        residual: Tensor = self.conv2(F.relu(self.conv1(x)))
        return x + residual


class MSRResNet(Network):
    """RGB in 0..1, shape [N, 3, H, W] to [N, 3, scale * H, scale * W]. Keys are basicsr's."""

    def __init__(self, config: MSRResNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks)))
        for stage, factor in enumerate(config.stages, start=1):
            self.add_module(f"upconv{stage}", nn.Conv2d(width, width * factor**2, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def io(self) -> SRFormat:
        """RGB in 0..1; each block reaches two pixels."""
        stages = self.config.stages
        reaches = [2 + 2 * self.config.blocks, *(1 for _ in stages)]
        reaches[-1] = 2
        return SRFormat(
            self.config.scale, Color.RGB, 1.0, halo=chain_halo(list(zip(reaches, (*stages, 1), strict=True)))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        current = self.body(F.leaky_relu(self.conv_first(x), SLOPE))
        for stage, factor in enumerate(self.config.stages, start=1):
            widened = self.get_submodule(f"upconv{stage}")(current)
            current = F.leaky_relu(F.pixel_shuffle(widened, factor), SLOPE)
        residual: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(current), SLOPE))
        enlarged = F.interpolate(x, scale_factor=float(self.config.scale), mode="bilinear", align_corners=False)
        return residual + enlarged


ARCHITECTURE = Architecture(
    name="msrresnet",
    marks=("conv_first.weight", "body.0.conv1.weight", "upconv1.weight", "conv_hr.weight", "conv_last.weight"),
    build=lambda state: MSRResNet(MSRResNetConfig.from_state_dict(state)),
    reference=lambda: MSRResNet(MSRResNetConfig()),
)
