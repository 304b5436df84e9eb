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
from workloads.super_resolution.tiling import Window, kept, run_windows, windows
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
    for window, output in run_windows(predict, read, places, io.scale, tiling.batch):
        seams.add(window, output)
        row, column = window.row, window.column
        if band is None:
            rows = (row.keep_end - row.keep_begin) * io.scale
            band = np.empty((rows, size[1], channels), picture.colour.dtype)
        target = band[:, column.keep_begin * io.scale : column.keep_end * io.scale]
        target[...] = _samples(picture, window, kept(window, output, io.scale), io)
        on_tile()
        if column.keep_end == picture.width:
            writer.write(band)
            band = None
    writer.close()
    return seams


def _samples(picture: Picture, window: Window, output: Tensor, io: SRFormat) -> Samples:
    channels = picture.colour.shape[2]
    chroma = _resampled(picture.colour, window, io.scale) if io.color is Color.Y and channels == 3 else None
    colour = to_samples(output, io, channels, picture.bits, chroma)
    if picture.alpha is None:
        return colour
    return cast("Samples", np.dstack([colour, _resampled(picture.alpha, window, io.scale)]))


def _resampled(samples: Samples, window: Window, scale: int) -> Samples:
    """What a window keeps of the picture enlarged by bicubic: equal to enlarging all of it."""
    row, column = window.row, window.column
    top, left = max(row.keep_begin - _BICUBIC_HALO, 0), max(column.keep_begin - _BICUBIC_HALO, 0)
    around = samples[top : row.keep_end + _BICUBIC_HALO, left : column.keep_end + _BICUBIC_HALO]
    large: Samples = bicubic(cast("NDArray[np.uint8]", around), scale)
    return large[
        (row.keep_begin - top) * scale : (row.keep_end - top) * scale,
        (column.keep_begin - left) * scale : (column.keep_end - left) * scale,
    ]
