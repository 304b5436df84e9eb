"""CARN and CARN-M: cascading residual networks (Ahn et al., ECCV 2018, arXiv:1803.08664)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.architecture import Architecture, Network, StateDict, in_channels, out_channels
from workloads.receptive_field import chain_halo
from workloads.super_resolution.format import Color, SRFormat

SCALES = (2, 3, 4)
UNITS = 3


@dataclass(frozen=True)
class CARNConfig:
    """Sizes of a CARN; the defaults are CARN-M's.

    `scales` are the tails that it holds. `mobile` units are two grouped convolutions and a 1x1, shared by the three
    steps of a block; the large CARN's are two convolutions, with weights of their own in each step.
    """

    scales: tuple[int, ...] = SCALES
    width: int = 64
    groups: int = 4
    tail_groups: int = 4
    mobile: bool = True

    @classmethod
    def from_state_dict(cls, state: StateDict) -> CARNConfig:
        """Read the sizes off the weights' shapes, and the tails off the keys."""
        width = out_channels(state, "entry")
        scales = tuple(s for s in SCALES if f"upsample.up{s}.body.0.weight" in state)
        return cls(
            scales=scales,
            width=width,
            groups=width // in_channels(state, "b1.b1.body.0"),
            tail_groups=width // in_channels(state, f"upsample.up{scales[0]}.body.0"),
            mobile="b1.b1.body.4.weight" in state,
        )


class MeanShift(nn.Module):
    """Subtracts or adds the mean colour; a 1x1 convolution, because the weights come as one."""

    def __init__(self) -> None:
        super().__init__()
        self.shifter = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        shifted: Tensor = self.shifter(x)
        return shifted


class Unit(nn.Module):
    """Residual unit: relu(x + body(x))."""

    def __init__(self, config: CARNConfig) -> None:
        super().__init__()
        width, groups = config.width, config.groups
        layers: list[nn.Module] = [
            nn.Conv2d(width, width, 3, padding=1, groups=groups),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=groups),
        ]
        if config.mobile:
            layers += [nn.ReLU(), nn.Conv2d(width, width, 1)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        return F.relu(self.body(x) + x)


class Fusion(nn.Module):
    """1x1 convolution and ReLU over a concatenation of `parts` features."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(parts * width, width, 1), nn.ReLU())

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """`parts` tensors of shape [N, width, H, W] to one."""
        fused: Tensor = self.body(torch.cat(list(parts), dim=1))
        return fused


def _cascade(x: Tensor, steps: Sequence[nn.Module], fusions: Sequence[nn.Module]) -> Tensor:
    """Each step's output joins everything before it, and a fusion of all feeds the next step."""
    gathered, current = [x], x
    for step, fusion in zip(steps, fusions, strict=True):
        gathered.append(step(current))
        current = fusion(gathered)
    return current


class Block(nn.Module):
    """A cascade of three residual units."""

    def __init__(self, config: CARNConfig) -> None:
        super().__init__()
        self.b1 = Unit(config)
        if not config.mobile:
            self.b2, self.b3 = Unit(config), Unit(config)
        self.c1, self.c2, self.c3 = (Fusion(config.width, parts) for parts in (2, 3, 4))
        self.shared = config.mobile

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        steps = [self.b1] * UNITS if self.shared else [self.b1, self.b2, self.b3]
        return _cascade(x, steps, [self.c1, self.c2, self.c3])


class Tail(nn.Module):
    """Grouped convolution, ReLU, pixel shuffle; twice for x4."""

    def __init__(self, config: CARNConfig, scale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for factor in _factors(scale):
            widened = nn.Conv2d(config.width, config.width * factor**2, 3, padding=1, groups=config.tail_groups)
            layers += [widened, nn.ReLU(), nn.PixelShuffle(factor)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, width, H, W] to [N, width, scale * H, scale * W]."""
        enlarged: Tensor = self.body(x)
        return enlarged


class CARN(Network):
    """RGB in 0..1, shape [N, 3, H, W] to [N, 3, scale * H, scale * W].

    With several tails it can be loaded but not run: `resolve` gives the network of one tail.
    """

    def __init__(self, config: CARNConfig) -> None:
        super().__init__()
        self.config = config
        self.sub_mean, self.add_mean = MeanShift(), MeanShift()
        self.entry = nn.Conv2d(3, config.width, 3, padding=1)
        self.b1, self.b2, self.b3 = (Block(config) for _ in range(UNITS))
        self.c1, self.c2, self.c3 = (Fusion(config.width, parts) for parts in (2, 3, 4))
        self.upsample = nn.ModuleDict({f"up{scale}": Tail(config, scale) for scale in config.scales})
        self.exit = nn.Conv2d(config.width, 3, 3, padding=1)

    @property
    def io(self) -> SRFormat:
        """RGB in 0..1; three blocks of three units reach two pixels each. ValueError with several tails."""
        scale = self._only_scale()
        reaches = [1 + UNITS * UNITS * 2 + 1, *(1 for _ in _factors(scale))]
        halo = chain_halo(list(zip(reaches, (*_factors(scale), 1), strict=True)))
        return SRFormat(scale, Color.RGB, 1.0, halo=halo)

    def resolve(self, scale: int | None) -> Network:
        """Keep the tail for `scale` and drop the others, so that the network has one output."""
        held = ", ".join(f"x{s}" for s in self.config.scales)
        if scale is None and len(self.config.scales) > 1:
            raise ValueError(f"has weights for {held}: say which with scale (--scale)")
        chosen = self.config.scales[0] if scale is None else scale
        if chosen not in self.config.scales:
            raise ValueError(f"has no weights for x{chosen}, only for {held}")
        single = CARN(replace(self.config, scales=(chosen,)))
        kept = single.state_dict().keys()
        single.load_state_dict({key: value for key, value in self.state_dict().items() if key in kept})
        return single

    def _only_scale(self) -> int:
        if len(self.config.scales) != 1:
            raise ValueError(f"CARN holds tails for {self.config.scales}: choose one with resolve(scale)")
        return self.config.scales[0]

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        first = self.entry(self.sub_mean(x))
        features = _cascade(first, [self.b1, self.b2, self.b3], [self.c1, self.c2, self.c3])
        enlarged: Tensor = self.add_mean(self.exit(self.upsample[f"up{self._only_scale()}"](features)))
        return enlarged


def _factors(scale: int) -> tuple[int, ...]:
    return (2, 2) if scale == 4 else (scale,)


ARCHITECTURE = Architecture(
    name="carn",
    marks=("sub_mean.shifter.weight", "entry.weight", "b1.b1.body.0.weight", "c1.body.0.weight", "exit.weight"),
    build=lambda state: CARN(CARNConfig.from_state_dict(state)),
    reference=lambda: CARN(CARNConfig()),
)
