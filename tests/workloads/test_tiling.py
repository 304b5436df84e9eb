from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from workloads.super_resolution.tiling import Window, kept, run_windows, spans, tiled, windows


class _Strided(nn.Module):
    """A full-resolution path plus one that halves the resolution and doubles it again: its grid matters."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(2, 4, 3, padding=1)
        self.far = nn.Conv2d(2, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        far = nn.functional.interpolate(self.far(x), scale_factor=2.0, mode="nearest")
        return self.near(x) + far


def _plain(scale: int) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)).eval()


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 12), st.integers(1, 8))
def test_spans_partition_the_axis_and_carry_their_halo(length: int, tile: int, halo: int, align: int) -> None:
    if length > tile and (tile - 2 * halo) // align < 1:
        with pytest.raises(UsageError, match=rf"tile of {tile} .* halo of {halo}; use at least"):
            spans(length, tile, halo, align)
        return
    windows = spans(length, tile, halo, align)
    assert [w.keep_begin for w in windows] == [0, *(w.keep_end for w in windows[:-1])]
    assert windows[-1].keep_end == windows[-1].end == length
    for window in windows:
        assert window.keep_begin < window.keep_end
        assert window.begin % align == 0
        assert window.begin == 0 or window.keep_begin - window.begin >= halo
        assert window.end == length or window.end - window.keep_end >= halo
        assert window.end - window.begin == min(tile, length) or (window.end == length and align > 1)
        assert window.end - window.begin < tile + align


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(64, 64), (33, 47), (20, 61), (16, 16), (15, 90), (7, 9)])
def test_no_seam(scale: int, size: tuple[int, int]) -> None:
    torch.manual_seed(scale)
    net = _plain(scale)
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        whole = net(x)
        parts = tiled(net, x, scale, tile=16, halo=4)
    assert parts.shape == whole.shape == (1, 3, size[0] * scale, size[1] * scale)
    assert (parts - whole).abs().max() < 1e-5


def test_too_small_a_halo_shows() -> None:
    torch.manual_seed(0)
    net = _plain(2)
    x = torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        assert (tiled(net, x, 2, tile=16, halo=3) - net(x)).abs().max() > 1e-4


def test_fixed_shape_windows() -> None:
    shapes = set()

    def predict(x: Tensor) -> Tensor:
        shapes.add(tuple(x.shape))
        return x

    x = torch.rand(2, 3, 77, 131)
    assert torch.equal(tiled(predict, x, 1, tile=32, halo=5), x)
    assert shapes == {(2, 3, 32, 32)}


@pytest.mark.parametrize("size", [(64, 64), (50, 38), (36, 70)])
def test_strided_branch_needs_alignment(size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    net = _Strided().eval()
    x = torch.rand(1, 2, *size)
    with torch.no_grad():
        whole = net(x)
        assert (tiled(net, x, 1, tile=16, halo=3, align=2) - whole).abs().max() < 1e-5


def test_wrong_scale_is_named() -> None:
    with pytest.raises(UsageError, match="is the scale 2"):
        tiled(lambda x: x, torch.rand(1, 3, 40, 40), 2, tile=16, halo=2)


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_batches_are_full_and_in_order(batch: int) -> None:
    torch.manual_seed(7)
    net, shapes = _plain(2), []

    def predict(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return net(x)

    x = torch.rand(1, 3, 50, 41)
    places = windows(50, 41, 24, 4)

    def read(window: Window) -> Tensor:
        return x[..., window.row.begin : window.row.end, window.column.begin : window.column.end]

    with torch.no_grad():
        found = list(run_windows(predict, read, places, 2, batch))
        whole = net(x)
    assert [window for window, _ in found] == places
    assert shapes == [(batch, 3, 24, 24)] * -(-len(places) // batch)
    for window, output in found:
        rows = slice(window.row.keep_begin * 2, window.row.keep_end * 2)
        columns = slice(window.column.keep_begin * 2, window.column.keep_end * 2)
        assert (kept(window, output, 2) - whole[..., rows, columns]).abs().max() < 1e-5
