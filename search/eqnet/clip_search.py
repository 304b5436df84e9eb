"""First scales and offsets: of 80 clipping ratios the one with the least mean |x - x'|^2.4, for all rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.quantizers import SMALLEST_SCALE, QuantFormat
from search.eqnet.forms import OffsetMode

RATIOS = 1.0 - 0.01 * torch.arange(80, dtype=torch.float32)
POWER = 2.4
CHUNK = 1 << 23
"""Most values that are tried at once, 32 MB in float32."""


def fit(rows: Tensor, grid: QuantFormat, *, symmetric: bool, mode: OffsetMode) -> tuple[Tensor, Tensor]:
    """(scale, offset), each [R], float32, of rows [R, n]; the offset is in the unit of the rows and 0 if `symmetric`.

    x' = scale * (clamp(round(x / scale) + z, qmin, qmax) - z) with z = round(-offset / scale), or with the offset as it
    is in OffsetMode.FLOAT. All ratios are tried for every form and granularity.
    """
    rows = rows.detach().float()
    scales, offsets = _candidates(rows, grid, symmetric)
    step = max(1, CHUNK // max(1, rows.numel()))
    errors = torch.cat(
        [
            _errors(rows, s, o, grid, symmetric, mode)
            for s, o in zip(torch.split(scales, step), torch.split(offsets, step), strict=True)
        ]
    )
    best = errors.argmin(0, keepdim=True)
    return scales.gather(0, best)[0], offsets.gather(0, best)[0]


def _candidates(rows: Tensor, grid: QuantFormat, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scales and offsets by ratio, [80, R]."""
    low, high = rows.amin(1).clamp(max=0.0), rows.amax(1).clamp(min=0.0)
    levels = float(2**grid.used_bits - 1)
    ratios = RATIOS.to(rows.device)[:, None]
    if symmetric:
        reach = 2 * torch.maximum(-low, high) if grid.signed else high
        scales = (ratios * reach / levels).clamp(min=SMALLEST_SCALE)
        return scales, torch.zeros_like(scales)
    scales = (ratios * (high - low) / levels).clamp(min=SMALLEST_SCALE)
    return scales, ratios * low - scales * grid.qmin


def _errors(
    rows: Tensor, scale: Tensor, offset: Tensor, grid: QuantFormat, symmetric: bool, mode: OffsetMode
) -> Tensor:
    """Mean error by ratio and row, [ratios, R]."""
    step, shift = scale[:, :, None], offset[:, :, None]
    if symmetric or mode is OffsetMode.INTEGER:
        zero = torch.zeros_like(shift) if symmetric else (-shift / step).round().clamp(grid.qmin, grid.qmax)
        rounded = ((rows / step).round() + zero).clamp(grid.qmin, grid.qmax).sub_(zero).mul_(step)
    else:
        rounded = ((rows - shift) / step).round().clamp(grid.qmin, grid.qmax).mul_(step).add_(shift)
    return rounded.sub_(rows).abs_().pow_(POWER).mean(2)
