"""SeamMeter: how far neighbouring windows disagree about the pixels on either side of the line where they meet."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from workloads.super_resolution.color import Floats
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.network_format import grey_levels
from workloads.super_resolution.tiling import Window


@dataclass
class SeamMeter:
    """Differences in 8-bit grey levels; give it every window of a picture, row by row.

    Compared is one LR pixel's worth of output beside each seam, which both windows have computed. `count` is the
    number of values compared: 0 for a picture of one window, or windows without a halo.
    """

    io: SRFormat
    largest: float = 0.0
    total: float = 0.0
    count: int = 0
    _beside: Floats | None = None
    _below: dict[int, Floats] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Mean absolute difference; None where nothing could be compared."""
        return self.total / self.count if self.count else None

    def add(self, window: Window, output: Tensor) -> None:
        """Take note of a window's whole output [1, C, h * scale, w * scale]."""
        scale, row, column = self.io.scale, window.row, window.column
        if column.keep_begin == 0:
            self._beside = None
        rows = slice((row.keep_begin - row.begin) * scale, (row.keep_end - row.begin) * scale)
        columns = slice((column.keep_begin - column.begin) * scale, (column.keep_end - column.begin) * scale)
        self._compare(self._beside, output[..., rows, columns.start : columns.start + scale])
        self._compare(self._below.get(column.begin), output[..., rows.start : rows.start + scale, columns])
        self._beside = self._strip(output[..., rows, columns.stop : columns.stop + scale])
        below = self._strip(output[..., rows.stop : rows.stop + scale, columns])
        self._below.pop(column.begin, None)
        if below is not None:
            self._below[column.begin] = below

    def _strip(self, output: Tensor) -> Floats | None:
        return grey_levels(output, self.io) if output.numel() else None

    def _compare(self, before: Floats | None, output: Tensor) -> None:
        if before is None:
            return
        difference = np.abs(grey_levels(output, self.io) - before)
        self.largest = max(self.largest, float(difference.max()))
        self.total += float(difference.sum())
        self.count += difference.size
