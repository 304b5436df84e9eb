"""BT.601 colour: luma and chroma of 8-bit RGB, in floating point and not rounded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workloads.super_resolution.format import Luma

Floats = NDArray[np.float64]

_STUDIO_Y = np.array([65.481, 128.553, 24.966]) / 255
_STUDIO_CB = np.array([-37.797, -74.203, 112.0]) / 255
_STUDIO_CR = np.array([112.0, -93.786, -18.214]) / 255
_FULL_Y = _STUDIO_Y * (255 / 219)
_TO_YCBCR = np.stack([_STUDIO_Y, _STUDIO_CB, _STUDIO_CR], axis=1)
_OFFSET = np.array([16.0, 128.0, 128.0])
_TO_RGB = np.linalg.inv(_TO_YCBCR)


def luma(rgb: NDArray[np.uint8] | Floats, kind: Luma = Luma.STUDIO) -> Floats:
    """Y of RGB [..., 3] in 0..255, not rounded: 16..235 (studio, ITU-R BT.601) or 0..255 (full, as in JPEG)."""
    if kind is Luma.FULL:
        return np.asarray(rgb @ _FULL_Y, np.float64)
    return np.asarray(rgb @ _STUDIO_Y + 16.0, np.float64)


def studio_luma(y: Floats, kind: Luma) -> Floats:
    """A luma of either kind, in 0..255 grey levels, on the studio range, where PSNR-Y is defined."""
    return y if kind is Luma.STUDIO else 16.0 + y * (219 / 255)


def rgb_to_ycbcr(rgb: NDArray[np.uint8] | Floats) -> Floats:
    """BT.601 studio-range YCbCr [..., 3] of RGB [..., 3] in 0..255, not rounded."""
    return np.asarray(rgb @ _TO_YCBCR + _OFFSET, np.float64)


def ycbcr_to_levels(ycbcr: Floats) -> Floats:
    """RGB grey levels, clipped to 0..255 and not rounded, of studio-range YCbCr [..., 3]."""
    rgb: Floats = (ycbcr - _OFFSET) @ _TO_RGB
    return rgb.clip(0, 255)


def ycbcr_to_rgb(ycbcr: Floats) -> NDArray[np.uint8]:
    """8-bit RGB [..., 3] of studio-range YCbCr [..., 3]: the inverse of `rgb_to_ycbcr`, clipped and rounded."""
    return np.rint(ycbcr_to_levels(ycbcr)).astype(np.uint8)
