"""Enhanced spatial attention: a coarse gate over the picture, made at about a sixth of its resolution.

Source: RFANet (Liu et al., CVPR 2020, section 3.3) as slimmed by RFDN and again by RLFN.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_INPUT_SIDE = 15
"""Least side in pixels for which the stride-2 convolution and the 7x7 pooling leave at least one cell."""


class ESA(nn.Module):
    """Gates x of shape [N, width, H, W] with a map from its `inner`-channel reduction; H, W >= 15.

    `deep` is RFDN's form, with three convolutions and ReLUs at the coarse resolution; without it, RLFN's single one.
    """

    def __init__(self, width: int, inner: int, *, deep: bool) -> None:
        super().__init__()
        self.deep = deep
        self.conv1 = nn.Conv2d(width, inner, 1)
        self.conv_f = nn.Conv2d(inner, inner, 1)
        if deep:
            self.conv_max = nn.Conv2d(inner, inner, 3, padding=1)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=2)
        self.conv3 = nn.Conv2d(inner, inner, 3, padding=1)
        if deep:
            self.conv3_ = nn.Conv2d(inner, inner, 3, padding=1)
        self.conv4 = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, width, H, W] to the same."""
        reduced = self.conv1(x)
        coarse = F.max_pool2d(self.conv2(reduced), kernel_size=7, stride=3)
        if self.deep:
            coarse = F.relu(self.conv_max(coarse))
            coarse = self.conv3_(F.relu(self.conv3(coarse)))
        else:
            coarse = self.conv3(coarse)
        resized = F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(resized + self.conv_f(reduced)))


def inner_channels(state: Mapping[str, Tensor], prefix: str) -> int:
    """The `inner` of the ESA under `prefix` in a state dict."""
    return state[f"{prefix}.conv1.weight"].shape[0]
