"""One picture through an engine, tile by tile, into a PNG file that grows row by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bitwright.foundation.files import atomic_path
from bitwright.runs.upscale_tiles import Tiling
from workloads.super_resolution.bicubic import upscale as bicubic
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.network_format import Samples, to_network, to_samples
from workloads.super_resolution.picture import Picture
from workloads.super_resolution.png_writer import PngWriter
from workloads.super_resolution.seams import SeamMeter
from workloads.super_resolution.stitching import Region, Stitcher
from workloads.super_resolution.tiling import Window, run_windows, windows
from workloads.workload import Predict

_BICUBIC_HALO = 2
"""Input pixels on each side that the bicubic kernel reads when it enlarges."""


def write_enlarged(
    picture: Picture, predict: Predict, io: SRFormat, tiling: Tiling, path: Path, on_tile: Callable[[], None]
) -> SeamMeter:
    """Write the enlarged picture to `path`, atomically; returns how well the tiles agree where they meet.

    `on_tile` is called after each tile. Errors as `enlarge`.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        return enlarge(picture, predict, io, tiling, file, on_tile)


def enlarge(
    picture: Picture, predict: Predict, io: SRFormat, tiling: Tiling, file: BinaryIO, on_tile: Callable[[], None]
) -> SeamMeter:
    """Write the enlarged picture to an open file as PNG.

    Colour goes through the network, transparency and what a luma network leaves out are resampled by bicubic. The
    picture itself and one row of enlarged tiles are in memory. VerificationError where the output is not finite.
    """
    seams = SeamMeter(io)
    places = windows(picture.height, picture.width, tiling.tile, tiling.overlap)
    channels = picture.colour.shape[2] + (picture.alpha is not None)
    band: Samples | None = None

    def read(window: Window) -> Tensor:
        row, column = window.row, window.column
        cut = picture.colour[row.begin : row.end, column.begin : column.end]
        return to_network(cast("Samples", np.broadcast_to(cut, (*cut.shape[:2], 3))), io)

    size = picture.height * io.scale, picture.width * io.scale
    writer = PngWriter(file, *size, channels, bits=picture.bits, icc=picture.icc)
    stitcher = Stitcher(picture.height, picture.width, io.scale, tiling.fade)
    for window, output in run_windows(predict, read, places, io.scale, tiling.batch):
        seams.add(window, output)
        region, part = stitcher.add(window, output)
        if band is None:
            rows = (region.bottom - region.top) * io.scale
            band = np.empty((rows, size[1], channels), picture.colour.dtype)
        band[:, region.left * io.scale : region.right * io.scale] = _samples(picture, region, part, io)
        on_tile()
        if region.right == picture.width:
            writer.write(band)
            band = None
    writer.close()
    return seams


def _samples(picture: Picture, region: Region, output: Tensor, io: SRFormat) -> Samples:
    channels = picture.colour.shape[2]
    chroma = _resampled(picture.colour, region, io.scale) if io.color is Color.Y and channels == 3 else None
    colour = to_samples(output, io, channels, picture.bits, chroma)
    if picture.alpha is None:
        return colour
    return cast("Samples", np.dstack([colour, _resampled(picture.alpha, region, io.scale)]))


def _resampled(samples: Samples, region: Region, scale: int) -> Samples:
    """A region of the picture enlarged by bicubic: equal to enlarging all of it."""
    top, left = max(region.top - _BICUBIC_HALO, 0), max(region.left - _BICUBIC_HALO, 0)
    around = samples[top : region.bottom + _BICUBIC_HALO, left : region.right + _BICUBIC_HALO]
    large: Samples = bicubic(cast("NDArray[np.uint8]", around), scale)
    return large[
        (region.top - top) * scale : (region.bottom - top) * scale,
        (region.left - left) * scale : (region.right - left) * scale,
    ]
