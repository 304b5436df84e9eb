"""Between pictures and the tensors of a super-resolution network, as its SRFormat says."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitwright.foundation.errors import VerificationError
from workloads.super_resolution.color import Floats, luma, rgb_to_ycbcr, studio_luma, ycbcr_to_levels
from workloads.super_resolution.format import Color, Luma, SRFormat

_BAND = 512
"""Rows of an output at a time: float64 copies of a picture of 35 million pixels would take gigabytes."""


Samples = NDArray[np.uint8] | NDArray[np.uint16]


def to_network(rgb: Samples, io: SRFormat) -> Tensor:
    """RGB uint8 or uint16 [H, W, 3] as the network's float32 [1, C, H, W]; Y is not rounded."""
    if io.color is Color.Y:
        y = luma(_levels(rgb), io.luma) * (io.value_max / 255)
        return torch.from_numpy(y.astype(np.float32))[None, None]
    pixels = torch.from_numpy(rgb.transpose(2, 0, 1).astype(np.float32, order="C"))[None]
    if rgb.dtype == np.uint16:
        pixels /= 257
    return pixels if io.value_max == 255 else pixels / 255


def _levels(samples: Samples) -> NDArray[np.uint8] | Floats:
    """Samples on the scale of 8 bits, 0..255: 65535 is 255 * 257."""
    if samples.dtype == np.uint8:
        return samples.view(np.uint8)
    return np.asarray(samples / 257.0, np.float64)


def _rounded(levels: Floats, bits: int) -> Samples:
    return np.rint(levels * 257).astype(np.uint16) if bits == 16 else np.rint(levels).astype(np.uint8)


def grey_levels(output: Tensor, io: SRFormat) -> Floats:
    """The network's [1, C, H, W] clipped and put on 0..255, float64 [H, W, C]; VerificationError on NaN or Inf."""
    values: Floats = output.detach().cpu().double()[0].permute(1, 2, 0).numpy()
    if not np.isfinite(values).all():
        raise VerificationError(f"the output {tuple(output.shape)} holds NaN or infinite values")
    return values.clip(0, io.value_max) * (255 / io.value_max)


def output_luma(output: Tensor, io: SRFormat) -> Floats:
    """Studio-range Y [H, W] in grey levels of a network's output or target [1, C, H, W].

    RGB is rounded to 8 bits first, as in the picture that would be saved; a Y network's own Y is not rounded.
    """
    return np.concatenate([_band_luma(rows, io) for rows in torch.split(output, _BAND, dim=-2)])


def _band_luma(output: Tensor, io: SRFormat) -> Floats:
    levels = grey_levels(output, io)
    if io.color is Color.Y:
        return studio_luma(levels[:, :, 0], io.luma)
    return luma(np.rint(levels).astype(np.uint8))


def to_rgb(output: Tensor, io: SRFormat, chroma_of: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """The picture uint8 [H, W, 3] of a network's output [1, C, H, W].

    A Y network's luma gets the chroma of `chroma_of`, an RGB picture of the same size (LR enlarged by bicubic), or
    none, which gives a grey picture.
    """
    bands = torch.split(output, _BAND, dim=-2)
    chroma = (None if chroma_of is None else chroma_of[i * _BAND : (i + 1) * _BAND] for i in range(len(bands)))
    levels = (rgb_levels(rows, io, colours) for rows, colours in zip(bands, chroma, strict=True))
    return np.concatenate([np.rint(band).astype(np.uint8) for band in levels])


def rgb_levels(output: Tensor, io: SRFormat, chroma_of: Samples | None) -> Floats:
    """As `to_rgb`, in grey levels 0..255 that are not rounded, float64 [H, W, 3]; chroma of 8 or 16 bits."""
    if io.color is Color.RGB:
        return grey_levels(output, io)
    y = output_luma(output, io)
    ycbcr = np.full((*y.shape, 3), 128.0) if chroma_of is None else rgb_to_ycbcr(_levels(chroma_of))
    ycbcr[:, :, 0] = y
    return ycbcr_to_levels(ycbcr)


def to_samples(output: Tensor, io: SRFormat, channels: int, bits: int, chroma_of: Samples | None) -> Samples:
    """The picture [H, W, channels] of an output [1, C, H, W] in 8 or 16 bits: RGB, or grey for 1 channel.

    Grey is the full-range BT.601 luma of what an RGB network makes of a grey picture. `chroma_of` as in `to_rgb`.
    """
    levels = rgb_levels(output, io, chroma_of)
    return _rounded(luma(levels, Luma.FULL)[:, :, None] if channels == 1 else levels, bits)
