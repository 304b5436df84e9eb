"""SampledNetwork: super-resolution networks drawn at random, so that kernels are timed as networks execute them.

A kernel alone finds its input in other caches, and is fused with other neighbours, than the same kernel in a network.
"""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional

from deploy.profiling.blocks import BLOCKS, SHARES, WIDTHS, PixelAttention, activation, same

_SIZES = ((48, 48), (64, 64), (96, 96), (128, 128), (180, 320))
_LARGE = 180 * 320
_WIDEST_OF_LARGE = 64
"""Wider networks take seconds at the largest size."""

_BLOCKS = (3, 5)
_UNSHUFFLED = (16, 24, 32)
"""Widths after a nearest-neighbour upsampling."""


class SampledNetwork(nn.Module):
    """A head, 3 to 5 blocks of one or a few widths, and an upsampling by 2 to 4 of either kind; decided by `seed`.

    Input [N, 3, H, W], output [N, 3, H * scale, W * scale].
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        dice = Random(seed)
        channels = self.width = dice.choice(WIDTHS)
        self.head = same(3, channels, 3)
        blocks: list[nn.Module] = []
        for _ in range(dice.randint(*_BLOCKS)):
            if dice.random() < 0.35:
                wider = dice.choice(WIDTHS)
                blocks += [same(channels, wider, dice.choice((1, 3))), activation(dice, wider)]
                channels = wider
            blocks.append(dice.choices(BLOCKS, SHARES)[0](dice, channels))
            self.width = max(self.width, channels)
        self.body = nn.Sequential(*blocks)
        self.scale = dice.choice((2, 3, 4))
        self.shuffles = dice.random() < 0.6
        if self.shuffles:
            self.tail = nn.Sequential(same(channels, 3 * self.scale**2, 3), nn.PixelShuffle(self.scale))
            return
        narrow = dice.choice(_UNSHUFFLED)
        self.before = perhaps_attended(dice, channels, narrow)
        self.tail = nn.Sequential(same(narrow, narrow, 3), nn.LeakyReLU(0.2), same(narrow, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        y = self.body(self.head(x))
        if self.shuffles:
            shuffled: Tensor = self.tail(y)
            return shuffled
        size = (x.shape[2] * self.scale, x.shape[3] * self.scale)
        enlarged: Tensor = self.tail(self.before(functional.interpolate(y, size=size, mode="nearest")))
        return enlarged + functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def perhaps_attended(dice: Random, channels: int, narrow: int) -> nn.Module:
    """From `channels` to `narrow` at the full resolution; in half of the cases with pixel attention (PAN)."""
    attention = [PixelAttention(dice, narrow), nn.LeakyReLU(0.2)] if dice.random() < 0.5 else [nn.LeakyReLU(0.2)]
    return nn.Sequential(same(channels, narrow, 3), *attention)


def sampled_network(seed: int) -> SampledNetwork:
    """The network of a seed, with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SampledNetwork(seed).eval()


def sampled_sizes(seed: int) -> tuple[tuple[int, int], ...]:
    """Two input sizes of the five, height and width; they take turns with the seed."""
    wide = sampled_network(seed).width > _WIDEST_OF_LARGE
    allowed = [size for size in _SIZES if not (wide and size[0] * size[1] >= _LARGE)]
    return allowed[seed % len(allowed)], allowed[(seed + 2) % len(allowed)]
