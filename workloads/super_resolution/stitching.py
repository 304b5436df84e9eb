"""Stitcher: windows' outputs as regions that partition the enlarged picture, cross-faded where tiling is not exact."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workloads.super_resolution.tiling import Span, Window


@dataclass(frozen=True)
class Region:
    """A part of a picture in LR pixels, ends not included."""

    top: int
    bottom: int
    left: int
    right: int


class Stitcher:
    """Give it every window of a picture, row by row; each answers with a region, and the regions partition the picture.

    `fade`: LR pixels on each side of a seam over which one window's output goes over into the other's, linearly; 0
    cuts at the seam. Windows must reach that far beyond what they keep, and keep at least twice as much. In memory are
    the strips that wait for the window beside and the row of windows below.
    """

    def __init__(self, height: int, width: int, scale: int, fade: int = 0) -> None:
        self._height, self._width, self._scale, self._fade = height, width, scale, fade
        ramp = (torch.arange(2 * fade * scale) + 0.5) / max(2 * fade * scale, 1)
        self._across, self._down = ramp, ramp[:, None]
        self._beside: Tensor | None = None
        self._below: dict[int, Tensor] = {}

    def add(self, window: Window, output: Tensor) -> tuple[Region, Tensor]:
        """The region that is complete now, and its pixels [N, C, h * scale, w * scale]."""
        part = self._cut(self._cut(output, window.row, self._height, -2), window.column, self._width, -1)
        top, bottom = self._ends(window.row, self._height)
        left, right = self._ends(window.column, self._width)
        if not self._fade:
            return Region(top, bottom, left, right), part
        zone = 2 * self._fade * self._scale
        if window.column.keep_begin > 0:
            assert self._beside is not None
            part = torch.cat([torch.lerp(self._beside, part[..., :zone], self._across), part[..., zone:]], -1)
        if window.column.keep_end < self._width:
            self._beside, part = part[..., -zone:].clone(), part[..., :-zone]
        if window.row.keep_begin > 0:
            part = torch.cat([torch.lerp(self._below[left], part[..., :zone, :], self._down), part[..., zone:, :]], -2)
        if window.row.keep_end < self._height:
            self._below[left], part = part[..., -zone:, :].clone(), part[..., :-zone, :]
        return Region(top, bottom, left, right), part

    def _ends(self, span: Span, length: int) -> tuple[int, int]:
        """Where a window's region begins and ends: before the zone that still waits for the next window."""
        begin = span.keep_begin - self._fade if span.keep_begin > 0 else 0
        return begin, span.keep_end - self._fade if span.keep_end < length else length

    def _cut(self, output: Tensor, span: Span, length: int, axis: int) -> Tensor:
        """What a window keeps along an axis, and the fade on each side that is not the picture's own."""
        begin = span.keep_begin - self._fade if span.keep_begin > 0 else 0
        end = span.keep_end + self._fade if span.keep_end < length else length
        return output.narrow(axis, (begin - span.begin) * self._scale, (end - begin) * self._scale)
