"""Inference on images of any size in overlapping windows, equal to one pass over the whole image.

A window's output is kept where every input pixel that it depends on lies in the window. At the image's own border the
window's border is the image's, so the network pads there as it would have. Nothing is blended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
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


@dataclass(frozen=True)
class Window:
    """One window of a picture, in LR pixels."""

    row: Span
    column: Span

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what the network reads."""
        return self.row.end - self.row.begin, self.column.end - self.column.begin


def windows(height: int, width: int, tile: int, halo: int, align: int = 1) -> list[Window]:
    """The windows of a picture, row by row; what they keep partitions it. Errors as `spans`."""
    columns = spans(width, tile, halo, align)
    return [Window(row, column) for row in spans(height, tile, halo, align) for column in columns]


def run_windows(
    predict: Predict, read: Callable[[Window], Tensor], places: Sequence[Window], scale: int, batch: int = 1
) -> Iterator[tuple[Window, Tensor]]:
    """Each window with the network's output for it, [N, C', h * scale, w * scale], in the order of `places`.

    `read` gives a window's pixels [N, C, h, w]. Neighbours of one shape go through the network `batch` at a time; the
    last of them is repeated where a batch would not be full, so that an engine meets one shape only. UsageError if
    the network enlarges by another factor than `scale`.
    """
    for shape, alike in groupby(places, key=lambda place: place.shape):
        found = list(alike)
        for begin in range(0, len(found), batch):
            taken = found[begin : begin + batch]
            parts = [read(place) for place in taken]
            parts += parts[-1:] * (batch - len(parts))
            output = predict(torch.cat(parts) if batch > 1 else parts[0])
            expected = (shape[0] * scale, shape[1] * scale)
            if output.shape[-2:] != expected:
                raise UsageError(
                    f"the network turned {shape} into {tuple(output.shape[-2:])}, not {expected}; is the scale {scale}?"
                )
            yield from zip(taken, torch.split(output, parts[0].shape[0]), strict=False)


def kept(window: Window, output: Tensor, scale: int) -> Tensor:
    """The part of a window's output that goes into the picture."""
    row, column = window.row, window.column
    return output[
        ...,
        (row.keep_begin - row.begin) * scale : (row.keep_end - row.begin) * scale,
        (column.keep_begin - column.begin) * scale : (column.keep_end - column.begin) * scale,
    ]


def tiled(predict: Predict, x: Tensor, scale: int, tile: int, halo: int, align: int = 1) -> Tensor:
    """Run `predict` over windows of `x` [N, C, H, W] and assemble [N, C', H * scale, W * scale].

    `halo`: LR pixels around an output pixel's place on which it depends (half the receptive field, rounded up). The
    result equals predict(x) for a network whose halo is finite, which excludes global pooling; `align` is the product
    of the strides of a network with strided branches. Every call gets [N, C, tile, tile] when the image is at least
    that large and `align` divides both sides minus the tile, so an engine of fixed shape can be used.

    Memory: input, output, and one window's activations.
    """
    height, width = x.shape[-2:]
    if not height * width:
        raise UsageError(f"cannot tile an empty image of shape {tuple(x.shape)}")

    def read(window: Window) -> Tensor:
        row, column = window.row, window.column
        return x[..., row.begin : row.end, column.begin : column.end].contiguous()

    out: Tensor | None = None
    for window, part in run_windows(predict, read, windows(height, width, tile, halo, align), scale):
        if out is None:
            out = part.new_empty((*part.shape[:2], height * scale, width * scale))
        rows = slice(window.row.keep_begin * scale, window.row.keep_end * scale)
        columns = slice(window.column.keep_begin * scale, window.column.keep_end * scale)
        out[..., rows, columns] = kept(window, part, scale)
    assert out is not None
    return out
