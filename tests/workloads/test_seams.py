"""The seam meter: zero where tiling is exact, and the true difference where it is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.seams import SeamMeter
from workloads.super_resolution.tiling import Window, run_windows, windows

IO = SRFormat(2, Color.RGB, 1.0)


def network(reach: int) -> nn.Module:
    torch.manual_seed(reach)
    convs = [nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(reach - 1)]
    return nn.Sequential(*convs, nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)).eval()


def measured(net: nn.Module, x: Tensor, halo: int, tile: int = 20) -> SeamMeter:
    def read(window: Window) -> Tensor:
        row, column = window.row, window.column
        return x[..., row.begin : row.end, column.begin : column.end]

    meter = SeamMeter(IO)
    with torch.no_grad():
        for window, output in run_windows(net, read, windows(*x.shape[-2:], tile, halo), 2):
            meter.add(window, output)
    return meter


@pytest.mark.parametrize("size", [(48, 64), (21, 50), (50, 21), (37, 53)])
def test_one_pixel_more_than_the_halo_is_exact_on_both_sides(size: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *size)
    meter = measured(network(3), x, halo=4)
    assert meter.count > 0
    assert meter.largest < 1e-3
    assert measured(network(3), x, halo=2).largest > 0.1


def test_the_difference_is_that_of_the_pixels_beside_the_seam() -> None:
    class Shifting(nn.Module):
        """Each call answers one grey level more than the one before."""

        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return torch.full((1, 3, 2 * x.shape[-2], 2 * x.shape[-1]), self.calls / 255)

    # Two rows of three windows: neighbours in a row differ by 1, those below each other by 3.
    x = torch.rand(1, 3, 36, 52)
    meter = measured(Shifting(), x, halo=2)
    assert len(windows(36, 52, 20, 2)) == 6
    assert meter.largest == pytest.approx(3, abs=1e-4)
    beside, below = 2 * 36 * 2 * 2 * 3, 2 * 52 * 2 * 3
    assert meter.count == beside + below
    assert meter.mean == pytest.approx((beside + 3 * below) / (beside + below), abs=1e-4)


def test_one_window_has_no_seam() -> None:
    meter = measured(network(2), torch.rand(1, 3, 20, 18), halo=3)
    assert (meter.count, meter.mean, meter.largest) == (0, None, 0.0)
