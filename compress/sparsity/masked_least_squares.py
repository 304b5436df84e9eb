"""Least squares under N:M: which weights of a row go, and what the others are worth without them.

Everything is float64 and said of rows w that are to bring w H near a target, H the second moments of what a row reads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.hessian import inverse_factor
from compress.nm_pattern import Sparsity
from compress.sparsity.masks import keep_largest

ITERATIONS = 200
"""Of conjugate gradients at most."""
PRECISION = 1e-12
"""Squared residual, over that of the start, at which they end."""


def solve(target: Tensor, hessian: Tensor, pattern: Sparsity, channels: int) -> Tensor:
    """Rows w that keep `pattern` with w H near `target` [rows, K]; columns behind channels x kernel are all kept."""
    taps = len(hessian) // channels
    extra = len(hessian) - taps * channels
    # Groups lie along channels at one kernel position: channels go last, what is extra behind them.
    order = torch.arange(taps * channels).reshape(channels, taps).T.flatten()
    order = torch.cat([order, torch.arange(taps * channels, len(hessian))])
    h, t = hessian[order][:, order], target[:, order]
    upper = inverse_factor(h)
    mask = greedy_mask(t @ upper.T @ upper, upper, pattern, channels, taps)
    kept = torch.cat([mask, mask.new_ones(len(mask), extra)], 1)
    found = conjugate_gradients(h, t, kept)
    result = torch.empty_like(found)
    result[:, order] = found
    return result


def greedy_mask(weight: Tensor, upper: Tensor, pattern: Sparsity, channels: int, taps: int) -> Tensor:
    """Which of the first taps x channels columns are kept, [rows, columns]; `weight` [rows, K]: the least squares.

    `upper`: the `inverse_factor` of the Hessian. Groups lie along the channels of a tap; the last one of each may be
    short.
    """
    left, masks = weight.clone(), []
    places = [(tap * channels, channel) for tap in range(taps) for channel in range(0, channels, pattern.m)]
    for first, channel in places:
        start, end = first + channel, first + min(channel + pattern.m, channels)
        scores = left[:, start:end].square() / upper.diagonal()[start:end].square()
        keep = keep_largest(scores.T, min(pattern.n, end - start)).T
        masks.append(keep)
        for at, column in enumerate(range(start, end)):
            lost = torch.where(keep[:, at], 0.0, left[:, column]) / upper[column, column]
            left[:, column:] -= lost[:, None] * upper[column, column:]
    return torch.cat(masks, 1)


def conjugate_gradients(hessian: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """Each row w, zero outside `kept`, that minimises w H w^T - 2 w t^T; all rows side by side, diagonally scaled."""
    scale = kept / hessian.diagonal()
    w = torch.zeros_like(target)
    residual = target * kept
    z = residual * scale
    direction, power = z, (residual * z).sum(1)
    enough = PRECISION * power
    for _ in range(ITERATIONS):
        image = (direction @ hessian) * kept
        curvature = (direction * image).sum(1)
        step = torch.where(curvature > 0, power / curvature, 0.0)[:, None]
        w, residual = w + step * direction, residual - step * image
        z = residual * scale
        before, power = power, (residual * z).sum(1)
        if bool((power <= enough).all()):
            break
        direction = z + torch.where(before > 0, power / before, 0.0)[:, None] * direction
    return w
