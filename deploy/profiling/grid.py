"""The grid: synthetic networks whose kernels cover the shapes of super-resolution, a few dozen in each network.

A chain for each width holds every window and activation once; sampled networks hold them as real networks do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from deploy.profiling.sampled import sampled_network, sampled_sizes
from deploy.profiling.subject import Subject

CHANNELS = (8, 16, 24, 32, 48, 50, 64, 96, 128)
SAMPLED = 40
"""Number of sampled networks."""

_CHAIN_SIZES = ((32, 32), (64, 64), (128, 128), (180, 320))
_TRACE_SIDE = 64

_WIDEST_OF_FIVE = 64
"""Wider 5x5 convolutions take seconds and occur in no network that is meant for a device."""

_SLOPE = 0.05


class Chain(nn.Module):
    """Convolutions of one width with every activation that runtimes fuse, then what surrounds them in such networks.

    For each window (1x1, 3x3, 5x5): alone, with ReLU, with LeakyReLU, and with a residual sum; a depthwise 3x3; a
    concatenation, squeezed and expanded again; a spatial attention (stride, pool, resize, sigmoid, product) and a
    channel attention; and a pixel shuffle by `scale`. Input [N, 3, H, W], output [N, 3, H * scale, W * scale].
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        windows = (1, 3, 5) if channels <= _WIDEST_OF_FIVE else (1, 3)
        half = max(channels // 2, 4)
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels, channels, window, padding=window // 2) for _ in range(4))
            for window in windows
        )
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.gather = nn.Conv2d(channels * 2, channels, 1)
        self.squeeze = nn.Conv2d(channels, half, 1)
        self.expand = nn.Conv2d(half, channels, 1)
        self.reduce = nn.Conv2d(half, half, 3, stride=2)
        self.shrunk = nn.Conv2d(half, half, 3, padding=1)
        self.channel = nn.Conv2d(channels, channels, 1)
        self.tail = nn.Conv2d(channels, 3 * scale * scale, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Run the chain."""
        first = x = self.head(x)
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            alone, relu, leaky, residual = stage
            inner = torch.relu(relu(alone(x)))
            x = residual(functional.leaky_relu(leaky(inner), _SLOPE)) + x
        x = self.pointwise(torch.relu(self.depthwise(x)))
        x = functional.leaky_relu(self.gather(torch.cat([x, first], 1)), _SLOPE)
        narrow = self.squeeze(x)
        small = self.shrunk(functional.max_pool2d(self.reduce(narrow), 3, 2))
        wide = functional.interpolate(small, size=(x.shape[2], x.shape[3]), mode="bilinear", align_corners=False)
        x = x * torch.sigmoid(self.expand(wide + narrow))
        x = x * torch.sigmoid(self.channel(functional.adaptive_avg_pool2d(x, 1)))
        enlarged: Tensor = self.shuffle(self.tail(x + first))
        return enlarged


def grid_names() -> tuple[str, ...]:
    """Names of the grid's networks."""
    return (*(f"grid-s{seed:02}" for seed in range(SAMPLED)), *(f"grid-c{channels}" for channels in CHANNELS))


def grid_subject(name: str) -> Subject:
    """A network of the grid, with the same weights each time; the chains' scales 4 and 2 take turns with the width."""
    seed, example = _seed(name), torch.rand(1, 3, _TRACE_SIDE, _TRACE_SIDE)
    if seed < SAMPLED:
        return Subject.of(name, name, sampled_network(seed), example)
    index = seed - SAMPLED
    with torch.random.fork_rng():
        torch.manual_seed(CHANNELS[index])
        module = Chain(CHANNELS[index], 2 if index % 2 else 4).eval()
    return Subject.of(name, name, module, example)


def grid_sizes(name: str) -> tuple[tuple[int, int], ...]:
    """The two heights and widths of the inputs that a network of the grid is measured at; the sizes take turns."""
    seed = _seed(name)
    return sampled_sizes(seed) if seed < SAMPLED else _CHAIN_SIZES[seed % 2 :: 2]


def grid_mixed(name: str) -> tuple[int, ...]:
    """Seed of the randomly mixed plan of a network of the grid; no two networks share it."""
    return (_seed(name),)


def grid_plans(name: str, plans: Sequence[str]) -> tuple[str, ...]:
    """Every second of the plans; those of even networks start with the first one.

    In the same time, more networks teach more than more plans of each.
    """
    return tuple(plans[_seed(name) % 2 :: 2])


def _seed(name: str) -> int:
    return grid_names().index(name)
