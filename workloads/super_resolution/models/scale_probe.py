"""Which scale factor a network was trained for, where the shapes of its weights do not say.

A network enlarges by s so that the picture, made smaller again, comes back. With another factor than the trained one
edges come out too sharp or shifted. On a drawing of discs the right factor of the published PAN and FSRCNN weights
wins by 13 dB and more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 48
SUPERSAMPLING = 8
BORDER = 6
DISCS = ((14, 16, 9, 0.74), (30, 30, 12, 0.5), (34, 12, 6, 0.82), (12, 36, 7, 0.34), (24, 22, 3, 0.18))
"""Centre row, centre column, radius (LR pixels) and value of each disc, painted in this order on 0.1."""

N = TypeVar("N", bound=nn.Module)


def _drawing() -> Tensor:
    axis = torch.arange(SIDE * SUPERSAMPLING) / SUPERSAMPLING
    rows, columns = axis[:, None], axis[None, :]
    fine = torch.full((len(axis), len(axis)), 0.1)
    for row, column, radius, value in DISCS:
        inside = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        fine = torch.where(inside, torch.tensor(value), fine)
    return F.interpolate(fine[None, None], size=(SIDE, SIDE), mode="bicubic", antialias=True)


@torch.no_grad()
def most_consistent(candidates: Mapping[int, N], *, channels: int) -> N:
    """The candidate whose output, reduced to the input size by antialiased bicubic, is nearest to the input.

    `candidates` map a scale factor to a loaded network of `channels` channels and value range 0..1.
    """
    picture = _drawing().expand(1, channels, SIDE, SIDE).contiguous()

    def error(scale: int) -> float:
        reduced = F.interpolate(candidates[scale].eval()(picture), size=(SIDE, SIDE), mode="bicubic", antialias=True)
        return float((reduced - picture)[..., BORDER:-BORDER, BORDER:-BORDER].square().mean())

    return candidates[min(candidates, key=error)]
