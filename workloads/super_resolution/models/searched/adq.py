"""ADQ, adaptive deviation for quantisation: a residual branch on normalised input, rescaled by the input's deviation.

y = x + (w * sigma + v) * g(BatchNorm(x)), sigma the unbiased standard deviation of x over channels and positions of one
sample, w and v learned, at first 1.5 and 0. It is AdaDM without its exponential and logarithm, so
that flat patches, where sigma is 0, do no harm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-12
GAIN, OFFSET = 1.5, 0.0


class ADQ(nn.Module):
    """The two ends of a residual branch: `normalise` before it, `rejoin` behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.gain = nn.Parameter(torch.tensor(GAIN))
        self.offset = nn.Parameter(torch.tensor(OFFSET))
        self.learning_statistics = True

    def normalise(self, x: Tensor) -> Tensor:
        """The branch's input, [N, C, H, W]. Without `learning_statistics`, training leaves the running ones alone."""
        if self.training and not self.learning_statistics:
            return F.batch_norm(x, None, None, self.norm.weight, self.norm.bias, training=True, eps=self.norm.eps)
        normalised: Tensor = self.norm(x)
        return normalised

    def rejoin(self, x: Tensor, branch: Tensor) -> Tensor:
        """`x` plus the rescaled branch; exactly `x` where it is constant."""
        return x + (self.gain * deviation(x) + self.offset) * branch

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input; the rest is `rejoin`."""
        return self.normalise(x)


def deviation(x: Tensor) -> Tensor:
    """Unbiased standard deviation of each sample, [N, 1, 1, 1]; 0 with a finite gradient for a constant one."""
    variance: Tensor = x.var(dim=(1, 2, 3), keepdim=True, unbiased=True)
    return torch.sqrt(variance + EPSILON) - float(EPSILON**0.5)
