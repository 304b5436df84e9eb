"""Blocks that super-resolution networks are made of, with widths, windows and activations drawn at random.

Each maps [N, channels, H, W] to the same shape. `dice` decides what a block is, torch's generator its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (8, 10, 12, 16, 20, 24, 25, 32, 36, 40, 48, 50, 52, 56, 64, 72, 80, 96, 128)
_NARROW = (8, 12, 16, 20)
_LEAST = 4


def same(inputs: int, outputs: int, window: int, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, window, padding=window // 2, groups=groups)


def activation(dice: Random, channels: int) -> nn.Module:
    """ReLU, LeakyReLU with one of the usual slopes, or PReLU."""
    kind = dice.choice(("relu", "leaky", "leaky", "prelu"))
    if kind == "leaky":
        return nn.LeakyReLU(dice.choice((0.05, 0.1, 0.2)))
    return nn.PReLU(channels) if kind == "prelu" else nn.ReLU()


def perhaps(dice: Random, module: nn.Module, share: float = 0.5) -> nn.Module:
    """The module, or nothing."""
    return module if dice.random() < share else nn.Identity()


class Residual(nn.Module):
    """Two convolutions with a sum around them, activated before the sum, after it, or not."""

    def __init__(self, dice: Random, channels: int) -> None:
        super().__init__()
        inner = dice.choice(WIDTHS) if dice.random() < 0.5 else channels
        self.first = same(channels, inner, dice.choice((1, 3, 3, 5)))
        self.second = same(inner, channels, dice.choice((1, 3, 3)))
        self.between = activation(dice, inner)
        self.before = perhaps(dice, activation(dice, channels), 0.3)
        self.after = perhaps(dice, activation(dice, channels), 0.4)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        result: Tensor = self.after(self.before(self.second(self.between(self.first(x)))) + x)
        return result


class Distillation(nn.Module):
    """Steps that each leave a narrow branch behind; the branches are gathered by a 1x1 convolution (RFDN)."""

    def __init__(self, dice: Random, channels: int) -> None:
        super().__init__()
        steps, narrow = dice.choice((2, 3)), max(_LEAST, channels // dice.choice((2, 4)))
        window = dice.choice((1, 1, 3))
        self.branches = nn.ModuleList(same(channels, narrow, window) for _ in range(steps))
        self.steps = nn.ModuleList(same(channels, channels, 3) for _ in range(steps))
        self.last = same(channels, narrow, 3)
        self.gather = same(narrow * (steps + 1), channels, 1)
        self.activation = nn.LeakyReLU(0.05) if dice.random() < 0.7 else nn.ReLU()
        self.residual = dice.random() < 0.7

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        found, y = [], x
        for branch, step in zip(self.branches, self.steps, strict=True):
            found.append(self.activation(branch(y)))
            y = self.activation(step(y) + y if self.residual else step(y))
        found.append(self.activation(self.last(y)))
        result: Tensor = self.gather(torch.cat(found, 1))
        return result + x if self.residual else result


class Splitting(nn.Module):
    """Steps whose output is split into a part that is kept and a part that goes on (IMDN)."""

    def __init__(self, dice: Random, channels: int) -> None:
        super().__init__()
        kept = max(_LEAST, channels // 4)
        self.parts = [kept, channels - kept]
        self.first = same(channels, channels, 3)
        self.steps = nn.ModuleList(same(channels - kept, channels, 3) for _ in range(dice.choice((1, 2))))
        self.last = same(channels - kept, kept, 3)
        self.gather = same(kept * (len(self.steps) + 2), channels, 1)
        self.activation = nn.LeakyReLU(0.05) if dice.random() < 0.7 else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        kept, y = torch.split(self.activation(self.first(x)), self.parts, 1)
        found = [kept]
        for step in self.steps:
            kept, y = torch.split(self.activation(step(y)), self.parts, 1)
            found.append(kept)
        result: Tensor = self.gather(torch.cat([*found, self.last(y)], 1)) + x
        return result


class SpatialAttention(nn.Module):
    """A map in [0, 1] from a much smaller picture: narrow, stride, pool, convolve, resize, widen (ESA)."""

    def __init__(self, dice: Random, channels: int) -> None:
        super().__init__()
        narrow = dice.choice(_NARROW)
        self.narrow = same(channels, narrow, 1)
        self.stride = nn.Conv2d(narrow, narrow, 3, stride=2)
        self.small = nn.Sequential(
            *(module for _ in range(dice.choice((0, 1, 2))) for module in (same(narrow, narrow, 3), nn.ReLU())),
            same(narrow, narrow, 3),
        )
        self.beside = perhaps(dice, same(narrow, narrow, 1), 0.7)
        self.widen = same(narrow, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        narrow = self.narrow(x)
        small = self.small(functional.max_pool2d(self.stride(narrow), 7, 3))
        wide = functional.interpolate(small, size=(x.shape[2], x.shape[3]), mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.widen(wide + self.beside(narrow)))


class ChannelAttention(nn.Module):
    """A factor for each channel from its mean, and perhaps its deviation, over the picture (CCA)."""

    def __init__(self, dice: Random, channels: int) -> None:
        super().__init__()
        narrow = max(2, channels // dice.choice((4, 8)))
        self.squeeze, self.excite = same(channels, narrow, 1), same(narrow, channels, 1)
        self.contrast = dice.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        told = x.mean((2, 3), keepdim=True)
        if self.contrast:
            told = told + ((x - told) ** 2).mean((2, 3), keepdim=True).sqrt()
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(told))))


class PixelAttention(nn.Module):
    """A factor in [0, 1] for each value, from a 1x1 convolution, on the input or on a convolution of it (PAN)."""

    def __init__(self, dice: Random, channels: int) -> None:
        super().__init__()
        self.factor = same(channels, channels, 1)
        self.value = perhaps(dice, same(channels, channels, 3), 0.6)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        result: Tensor = self.value(x) * torch.sigmoid(self.factor(x))
        return result


class Branches(nn.Module):
    """Two narrow branches of 3x3 convolutions, one perhaps with pixel attention, gathered again (PAN)."""

    def __init__(self, dice: Random, channels: int) -> None:
        super().__init__()
        half = max(_LEAST, channels // 2)
        self.sides = nn.ModuleList(
            nn.Sequential(
                same(channels, half, 1), activation(dice, half),
                perhaps(dice, PixelAttention(dice, half), share), same(half, half, 3), activation(dice, half),
            )
            for share in (0.0, 0.7)
        )  # fmt: skip
        self.gather = same(2 * half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        result: Tensor = self.gather(torch.cat([side(x) for side in self.sides], 1)) + x
        return result


class Separable(nn.Module):
    """A depthwise convolution, then a 1x1 one, with a sum around them."""

    def __init__(self, dice: Random, channels: int) -> None:
        super().__init__()
        self.depthwise = same(channels, channels, dice.choice((3, 3, 5)), channels)
        self.activation = perhaps(dice, activation(dice, channels), 0.7)
        self.pointwise = same(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        result: Tensor = self.pointwise(self.activation(self.depthwise(x))) + x
        return result


BLOCKS: Sequence[Callable[[Random, int], nn.Module]] = (
    Residual, Distillation, Splitting, SpatialAttention, ChannelAttention, PixelAttention, Branches, Separable,
)  # fmt: skip
"""Every block."""

SHARES = (3, 3, 2, 2, 1, 2, 2, 1)
"""How often each occurs: convolutions take most of the time of such networks, so most of the blocks are theirs."""
