"""Inference on images of any size in overlapping windows, equal to one pass over the whole image.

A window's output is kept where every input pixel that it depends on lies in the window. At the image's own border the
window's border is the image's, so the network pads there as it would have. Nothing is blended.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bitwright.foundation.errors import UsageError
from workloads.workload import Predict


@dataclass(frozen=True)
class Span:
    """One window along one axis, in LR pixels: read [begin, end), keep [keep_begin, keep_end)."""

    begin: int
    end: int
    keep_begin: int
    keep_end: int


def spans(length: int, tile: int, halo: int, align: int = 1) -> list[Span]:
    """Windows of `tile` pixels that cover `length` pixels; the kept parts partition it.

    All windows are equally long; the last is moved inwards to end with the image. A window begins on a multiple of
    `align`, so where length - tile is no multiple of it the last one is up to align - 1 pixels longer. An image that
    is not longer than a tile is one window of its own length. UsageError if a tile has no interior.
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    step = (tile - 2 * halo) // align * align
    if halo < 0 or align < 1 or step < 1:
        least = 2 * max(halo, 0) + max(align, 1)
        raise UsageError(f"a tile of {tile} pixels is too small for a halo of {halo}; use at least {least}")
    last = (length - tile) // align * align
    begins = [*range(0, last, step), last]
    # Where two windows meet, the seam is anywhere that both have their halo; the earlier one keeps all it can.
    seams = [0, *(begin + tile - halo for begin in begins[:-1]), length]
    ends = [*(begin + tile for begin in begins[:-1]), length]
    return [Span(*window) for window in zip(begins, ends, seams[:-1], seams[1:], strict=True)]


def tiled(predict: Predict, x: Tensor, scale: int, tile: int, halo: int, align: int = 1) -> Tensor:
    """Run `predict` over windows of `x` [N, C, H, W] and assemble [N, C', H * scale, W * scale].

    `halo`: LR pixels around an output pixel's place on which it depends (half the receptive field, rounded up). The
    result equals predict(x) for a network whose halo is finite, which excludes global pooling; `align` is the product
    of the strides of a network with strided branches. Every call gets [N, C, tile, tile] when the image is at least
    that large and `align` divides both sides minus the tile, so an engine of fixed shape can be used.

    Memory: input, output, and one window's activations.
    """
    height, width = x.shape[-2:]
    out: Tensor | None = None
    for row in spans(height, tile, halo, align):
        for column in spans(width, tile, halo, align):
            window = x[..., row.begin : row.end, column.begin : column.end].contiguous()
            part = predict(window)
            expected = (window.shape[-2] * scale, window.shape[-1] * scale)
            if part.shape[-2:] != expected:
                raise UsageError(
                    f"the network turned {tuple(window.shape[-2:])} into {tuple(part.shape[-2:])}, not {expected}; "
                    f"is the scale {scale}?"
                )
            if out is None:
                out = part.new_empty((*part.shape[:2], height * scale, width * scale))
            top, left = (row.keep_begin - row.begin) * scale, (column.keep_begin - column.begin) * scale
            kept_rows, kept_columns = (
                (row.keep_end - row.keep_begin) * scale,
                (column.keep_end - column.keep_begin) * scale,
            )
            out_top, out_left = row.keep_begin * scale, column.keep_begin * scale
            out[..., out_top : out_top + kept_rows, out_left : out_left + kept_columns] = part[
                ..., top : top + kept_rows, left : left + kept_columns
            ]
    if out is None:
        raise UsageError(f"cannot tile an empty image of shape {tuple(x.shape)}")
    return out
