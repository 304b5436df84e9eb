"""FSRCNN: shrink, map, expand, then one transposed convolution (Dong et al., ECCV 2016, arXiv:1608.00367)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from workloads.architecture import Architecture, Network, StateDict, highest_index, out_channels
from workloads.super_resolution.format import Color, Luma, SRFormat
from workloads.super_resolution.models.scale_probe import most_consistent

SCALES = (2, 3, 4)
KERNEL = 9
PADDING = KERNEL // 2


@dataclass(frozen=True)
class FSRCNNConfig:
    """Sizes of an FSRCNN(d, s, m): `width` d, `inner` s and `mappings` m; the defaults are the paper's."""

    scale: int = 2
    width: int = 56
    inner: int = 12
    mappings: int = 4

    @classmethod
    def from_state_dict(cls, state: StateDict) -> FSRCNNConfig:
        """Read the sizes off the weights' shapes; they are the same for every scale, and x2 is returned."""
        return cls(
            width=out_channels(state, "first_part.0"),
            inner=out_channels(state, "mid_part.0"),
            mappings=highest_index(state, r"mid_part\.(\d+)\.") // 2 - 1,
        )


class FSRCNN(Network):
    """Y (studio range) / 255, shape [N, 1, H, W] to [N, 1, scale * H, scale * W]."""

    def __init__(self, config: FSRCNNConfig) -> None:
        super().__init__()
        self.config = config
        width, inner = config.width, config.inner
        self.first_part = nn.Sequential(nn.Conv2d(1, width, 5, padding=2), nn.PReLU(width))
        layers: list[nn.Module] = [nn.Conv2d(width, inner, 1), nn.PReLU(inner)]
        for _ in range(config.mappings):
            layers += [nn.Conv2d(inner, inner, 3, padding=1), nn.PReLU(inner)]
        layers += [nn.Conv2d(inner, width, 1), nn.PReLU(width)]
        self.mid_part = nn.Sequential(*layers)
        self.last_part = nn.ConvTranspose2d(
            width, 1, KERNEL, stride=config.scale, padding=PADDING, output_padding=config.scale - 1
        )

    @property
    def io(self) -> SRFormat:
        """Studio-range Y in 0..1. Output o of the transposed convolution reads the inputs in (o -+ 4) / scale."""
        scale = self.config.scale
        halo = 2 + self.config.mappings + max(PADDING // scale, (scale - 1 + PADDING) // scale)
        return SRFormat(scale, Color.Y, 1.0, luma=Luma.STUDIO, halo=halo)

    def resolve(self, scale: int | None) -> Network:
        """The stride is not in the weights; None chooses by `most_consistent`."""
        candidates = {factor: self._with_scale(factor) for factor in SCALES}
        if scale is None:
            return most_consistent(candidates, channels=1)
        if scale not in candidates:
            raise ValueError(f"is defined for x2, x3 and x4, not for x{scale}")
        return candidates[scale]

    def _with_scale(self, scale: int) -> FSRCNN:
        twin = FSRCNN(replace(self.config, scale=scale))
        twin.load_state_dict(self.state_dict())
        return twin

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        enlarged: Tensor = self.last_part(self.mid_part(self.first_part(x)))
        return enlarged


ARCHITECTURE = Architecture(
    name="fsrcnn",
    marks=("first_part.0.weight", "mid_part.0.weight", "last_part.weight"),
    build=lambda state: FSRCNN(FSRCNNConfig.from_state_dict(state)),
    reference=lambda: FSRCNN(FSRCNNConfig()),
)
