"""How far a network looks: the halo that a tile needs so that its centre equals the untiled result.

The halo is found by dye tracing: one input row is set to NaN, and the output rows that turn NaN are the ones that
depend on it. NaN survives every weight, a zero one included, so the answer follows from the structure alone, where the
support of a gradient would miss what ReLU or max-pooling hides.

A finite reach is necessary for tiling to be exact, but not sufficient. Two kinds of network have no halo at all:

* Global operations. IMDN's contrast-aware attention averages over the whole input: every output depends on every input.
* Operations that depend on the size or the origin of the grid. ESA (RFDN, RLFN) convolves with stride 2, pools with
  stride 3 and resizes back to the input size. Strided cells start at the tile's corner, so a tile would have to start
  at a multiple of 6 pixels; and even then the resize factor is n(H) / H with n(H) = ((H - 3) // 2 + 1 - 7) // 3 + 1,
  which is 19/128 for 128 rows and 41/256 for 256, so cells of a tile are sampled at other positions than the same cells
  of the whole picture. No alignment and no margin makes the two equal; a tiler can only blend.

So the reach is proven twice: the stains of neighbouring rows must be the same but for the shift, whatever the weights
are; and a tile cut at an odd offset, with the halo around it, must reproduce the centre of the whole.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PROBE_SIDES = (48, 96, 192, 384)
PROBE_WIDTH = 24
SHIFTS = 3
TILE_CORE = 9
TOLERANCE = 1e-9


def chain_halo(stages: Sequence[tuple[int, int]]) -> int:
    """Halo, in input pixels, of a chain of (reach in pixels, enlargement after it) stages, input side first.

    Each stage is a run of stride-1 convolutions whose reaches add up to the first number, followed by pixel shuffle or
    nearest enlargement by the second (1: none). Pixel `o` after an enlargement by r lies in pixel `o // r` before it.
    """
    first, last = 0, math.prod(factor for _, factor in stages) - 1
    for reach, factor in reversed(stages):
        first, last = first // factor - reach, last // factor + reach
    return max(-first, last)


@torch.no_grad()
def halo(module: nn.Module, *, channels: int = 3, scale: int = 1) -> int | None:
    """Least number of input pixels around a tile that makes its centre equal the untiled result; None if none does.

    `module` maps [N, channels, H, W] to [N, C, scale * H, scale * W]; it is copied and probed in double precision, on
    inputs of 24 x 48 up to 24 x 384 pixels. None also where the network refuses such inputs or reaches farther.
    """
    probe = copy.deepcopy(module).double().eval()
    try:
        reaches = [_reach(probe, channels, scale, vertical=vertical) for vertical in (True, False)]
        vertical, horizontal = reaches
        if vertical is None or horizontal is None:
            return None
        found = max(vertical, horizontal)
        return found if _tiles_agree(probe, channels, scale, found) else None
    except RuntimeError:
        return None


def _reach(module: nn.Module, channels: int, scale: int, *, vertical: bool) -> int | None:
    """Distance of the farthest output row (or column) that one input row (or column) influences, in input pixels."""
    for side in PROBE_SIDES:
        middle = side // 2
        traces = [_trace(module, channels, side, middle + step, vertical=vertical) for step in range(SHIFTS)]
        extent = side * scale
        if any(first <= 0 or last >= extent - 1 for first, last in traces):
            continue
        origins = [(middle + step) * scale for step in range(SHIFTS)]
        stains = {(first - at, last - at) for (first, last), at in zip(traces, origins, strict=True)}
        if len(stains) > 1:
            return None
        first, last = stains.pop()
        return max(-(first // scale), last // scale)
    return None


def _trace(module: nn.Module, channels: int, side: int, row: int, *, vertical: bool) -> tuple[int, int]:
    """First and last output row (or column) that turns NaN with input `row`; `row` itself where none does."""
    dyed = torch.zeros(1, channels, side, PROBE_WIDTH, dtype=torch.float64)
    dyed[:, :, row] = math.nan
    output: Tensor = module(dyed if vertical else dyed.transpose(2, 3))
    rows = output.isnan().any(dim=3 if vertical else 2).any(dim=1)[0].nonzero().flatten()
    return (int(rows[0]), int(rows[-1])) if len(rows) else (row, row)


def _tiles_agree(module: nn.Module, channels: int, scale: int, margin: int) -> bool:
    """Whether a tile of TILE_CORE rows, cut at an odd offset with `margin` around it, reproduces the whole there."""
    side = max(PROBE_WIDTH, TILE_CORE + 2 * margin)
    generator = torch.Generator().manual_seed(0)
    whole = torch.rand(1, channels, side + 14, PROBE_WIDTH, dtype=torch.float64, generator=generator)
    for axes in ((2, 3), (3, 2)):
        rows = whole if axes == (2, 3) else whole.transpose(2, 3)
        offset = 7
        tile = rows.narrow(axes[0], offset, side)
        start, length = margin * scale, (side - 2 * margin) * scale
        expected = module(rows).narrow(axes[0], offset * scale + start, length)
        difference = (module(tile).narrow(axes[0], start, length) - expected).abs().max()
        if not bool(difference <= TOLERANCE * max(1.0, float(expected.abs().max()))):
            return False
    return True
