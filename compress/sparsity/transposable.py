"""Transposable 2:4 masks: every tile of 4 x 4 is 2:4 along rows and along columns, so that W and its transpose are.

For training with sparse products in both directions. There are 90 such tiles; the best one is found by trying all.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, product

import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from compress.sparsity.layouts import Axis, LayerKind, WeightLayout

TILE = 4


@cache
def tiles() -> Tensor:
    """All tiles with two kept in each row and each column, [90, 4, 4] bool; low channels come first."""
    rows = [tuple(int(i in pair) for i in range(TILE)) for pair in combinations(range(TILE), 2)]
    legal = [t for t in product(rows, repeat=TILE) if all(sum(column) == 2 for column in zip(*t, strict=True))]
    return torch.tensor(legal, dtype=torch.bool)


def transposable_mask(scores: Tensor, layout: WeightLayout) -> Tensor:
    """The mask of the legal tiles that keep the highest sum of `scores`, in the weight's shape.

    Both channel counts of a channel group must be multiples of 4. Of tiles with equal sums the one that comes first in
    `tiles` is taken. UsageError where 4 does not divide, or a score is NaN.
    """
    shape = tuple(scores.shape)
    lengths = [layout.length(shape, axis) for axis in (Axis.INPUT, Axis.OUTPUT)]
    if any(length % TILE for length in lengths):
        raise UsageError(f"{lengths[0]} input and {lengths[1]} output channels are not divided into tiles of 4 x 4")
    if bool(torch.isnan(scores).any()):
        raise UsageError("scores hold NaN")
    first, second = (0, 1) if layout.kind is not LayerKind.CONV_TRANSPOSE else (1, 0)
    tiled = scores.detach().to(torch.float32).movedim((first, second), (-2, -1))
    outs, ins = tiled.shape[-2:]
    blocks = tiled.reshape(*tiled.shape[:-2], outs // TILE, TILE, ins // TILE, TILE).transpose(-3, -2)
    legal = tiles().to(scores.device)
    sums = blocks.reshape(-1, TILE * TILE) @ legal.reshape(-1, TILE * TILE).to(torch.float32).T
    best = legal[sums.argmax(1)].reshape(blocks.shape)
    kept = best.transpose(-3, -2).reshape(*tiled.shape[:-2], outs, ins)
    result: Tensor = kept.movedim((-2, -1), (first, second)).contiguous()
    return result
