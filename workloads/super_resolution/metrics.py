"""PSNR-Y and SSIM-Y by one protocol: float64, unrounded BT.601 studio luma, data range 255, border removed."""

from __future__ import annotations

import numpy as np

from bitwright.foundation.errors import UsageError
from workloads.super_resolution.color import Floats

DATA_RANGE = 255.0
MAX_PSNR = 100.0
"""dB reported for equal images, where PSNR is infinite, so that the mean of a set stays finite."""

SSIM_WINDOW = 11
_BAND = 256
"""Rows of windows at a time: whole pictures of 35 million pixels would take gigabytes in float64."""
_SIGMA = 1.5
_C1 = (0.01 * DATA_RANGE) ** 2
_C2 = (0.03 * DATA_RANGE) ** 2


def shave(y: Floats, border: int) -> Floats:
    """`y` [H, W] without `border` pixels on each side; UsageError if nothing is left."""
    height, width = y.shape
    if min(height, width) <= 2 * border:
        raise UsageError(f"a {width}x{height} image has nothing left without {border} border pixels")
    return y[border : height - border, border : width - border]


def psnr(output: Floats, target: Floats) -> float:
    """Peak signal-to-noise ratio in dB of two [H, W] images in 0..255 grey levels; at most MAX_PSNR."""
    _same_shape(output, target)
    error = float(np.mean((output - target) ** 2))
    return MAX_PSNR if error == 0 else min(MAX_PSNR, 10 * float(np.log10(DATA_RANGE**2 / error)))


def ssim(output: Floats, target: Floats) -> float:
    """Mean structural similarity of two [H, W] images in 0..255 grey levels, both sides at least 11.

    Z. Wang et al. 2004, eq. 13: Gaussian window 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, over the windows that lie
    wholly inside the image, population covariance.
    """
    _same_shape(output, target)
    if min(output.shape) < SSIM_WINDOW:
        raise UsageError(f"SSIM needs at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got {output.shape}")
    windows = output.shape[0] - SSIM_WINDOW + 1
    total = 0.0
    for top in range(0, windows, _BAND):
        rows = slice(top, min(top + _BAND, windows) + SSIM_WINDOW - 1)
        total += float(_similarity(output[rows], target[rows]).sum())
    return float(total / (windows * (output.shape[1] - SSIM_WINDOW + 1)))


def _similarity(output: Floats, target: Floats) -> Floats:
    """SSIM of each window that lies inside."""
    mean_a, mean_b = _blur(output), _blur(target)
    product, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    covariance = _blur(output * target) - product
    variances = _blur(output**2 + target**2) - squares
    similarity: Floats = (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))
    return similarity


def _same_shape(output: Floats, target: Floats) -> None:
    if output.shape != target.shape:
        raise UsageError(f"cannot compare an image of shape {output.shape} with one of shape {target.shape}")


def _blur(image: Floats) -> Floats:
    """Gaussian window sums at the positions where the window fits; the two-dimensional window is separable."""
    taps = np.exp(-((np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) ** 2) / (2 * _SIGMA**2))
    taps /= taps.sum()
    rows = image.shape[0] - SSIM_WINDOW + 1
    columns = image.shape[1] - SSIM_WINDOW + 1
    down: Floats = sum((tap * image[i : i + rows] for i, tap in enumerate(taps)), np.zeros((rows, image.shape[1])))
    return sum((tap * down[:, i : i + columns] for i, tap in enumerate(taps)), np.zeros((rows, columns)))
