"""Stitching: regions partition the picture, and a cross-fade is the separable linear one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.super_resolution.stitching import Region, Stitcher
from workloads.super_resolution.tiling import Window, windows


def stitched(height: int, width: int, tile: int, halo: int, scale: int, fade: int, value: object) -> torch.Tensor:
    """A picture of one channel; `value(window)` [h, w] is a window's output."""
    out = torch.full((1, 1, height * scale, width * scale), torch.nan)
    stitcher = Stitcher(height, width, scale, fade)
    for window in windows(height, width, tile, halo):
        region, part = stitcher.add(window, value(window)[None, None])  # type: ignore[operator]
        rows = slice(region.top * scale, region.bottom * scale)
        columns = slice(region.left * scale, region.right * scale)
        assert out[..., rows, columns].isnan().all()
        out[..., rows, columns] = part
    assert not out.isnan().any()
    return out[0, 0]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 6), st.integers(0, 9), st.integers(1, 3))
def test_windows_that_agree_give_the_picture(height: int, width: int, fade: int, more: int, scale: int) -> None:
    halo = fade + more % 3
    tile = 2 * halo + max(2 * fade, 1) + more
    whole = torch.rand(height * scale, width * scale)

    def value(window: Window) -> torch.Tensor:
        row, column = window.row, window.column
        return whole[row.begin * scale : row.end * scale, column.begin * scale : column.end * scale]

    torch.testing.assert_close(stitched(height, width, tile, halo, scale, fade, value), whole)


def test_the_fade_is_linear_and_separable() -> None:
    # Two by two windows of 12 that meet at 8 on each axis: 16 = 12 + 12 - 2 * 4.
    places = windows(16, 16, 12, 4)
    assert [(w.row.keep_begin, w.column.keep_begin) for w in places] == [(0, 0), (0, 8), (8, 0), (8, 8)]
    values = dict(zip(places, (0.0, 1.0, 10.0, 100.0), strict=True))
    found = stitched(16, 16, 12, 4, 1, 2, lambda w: torch.full((12, 12), values[w]))
    ramp = torch.tensor([*[0.0] * 6, 0.125, 0.375, 0.625, 0.875, *[1.0] * 6])
    upper, lower = ramp * 1.0, 10 + ramp * 90.0
    torch.testing.assert_close(found, torch.lerp(upper.expand(16, 16), lower.expand(16, 16), ramp[:, None]))


def test_without_a_fade_windows_are_cut() -> None:
    places = windows(16, 16, 12, 4)
    stitcher = Stitcher(16, 16, 2)
    region, part = stitcher.add(places[1], torch.ones(1, 3, 24, 24))
    assert region == Region(0, 8, 8, 16)
    assert part.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("fade", [0, 3])
def test_steps_at_seams(fade: int) -> None:
    """Windows that differ by a constant leave a step at the seam, or none that is larger than the ramp's."""
    found = stitched(20, 64, 20, 4, 1, fade, lambda w: torch.full((w.shape[0], w.shape[1]), float(w.column.begin)))
    step = found.diff(dim=1).abs().max()
    assert step == pytest.approx(12 if fade == 0 else 12 / 6)
