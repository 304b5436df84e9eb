"""PSNR-Y and SSIM-Y: float64, BT.601 studio luma, data range 255, border removed; by the protocol that is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitwright.foundation.errors import UsageError
from workloads.super_resolution.color import Floats

DATA_RANGE = 255.0
MAX_PSNR = 100.0
"""dB reported for equal images, where PSNR is infinite, so that the mean of a set stays finite."""

SSIM_WINDOW = 11
"""Side of the standard window, the largest of any protocol."""
_BAND = 256
"""Rows of windows at a time: whole pictures of 35 million pixels would take gigabytes in float64."""
_SIGMA = 1.5
_C1 = (0.01 * DATA_RANGE) ** 2
_C2 = (0.03 * DATA_RANGE) ** 2


@dataclass(frozen=True)
class Protocol:
    """How luma is compared. `border` None: as many pixels as the scale. `sigma` None: all of the window counts alike.

    `sample_covariance`: SSIM's variances are over n - 1.
    """

    whole_luma: bool
    border: int | None
    window: int
    sigma: float | None
    sample_covariance: bool

    @property
    def taps(self) -> Floats:
        """Weights of the separable window along one side, [window]; their sum is 1."""
        if self.sigma is None:
            return np.full(self.window, 1 / self.window)
        taps: Floats = np.exp(-((np.arange(self.window) - self.window // 2) ** 2) / (2 * self.sigma**2))
        taps /= taps.sum()
        return taps


STANDARD = Protocol(whole_luma=False, border=None, window=SSIM_WINDOW, sigma=_SIGMA, sample_covariance=False)
"""That of the super-resolution literature; all figures are by it where nothing else is said."""
WHOLE_LUMA = Protocol(whole_luma=True, border=4, window=7, sigma=None, sample_covariance=True)
"""That of QuantNAS' published code: luma rounded to whole grey levels, 4 pixels removed at any scale, SSIM over 7x7
pixels that count alike."""


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


def ssim(output: Floats, target: Floats, protocol: Protocol = STANDARD) -> float:
    """Mean structural similarity of two [H, W] images in 0..255 grey levels, both sides at least the window's.

    Z. Wang et al. 2004, eq. 13: K1 = 0.01, K2 = 0.03, over the windows that lie wholly inside the image; the standard
    window is the Gaussian one of 11x11 with sigma 1.5, with population covariance.
    """
    _same_shape(output, target)
    side = protocol.window
    if min(output.shape) < side:
        raise UsageError(f"SSIM needs at least {side}x{side} pixels, got {output.shape}")
    windows = output.shape[0] - side + 1
    total = 0.0
    for top in range(0, windows, _BAND):
        rows = slice(top, min(top + _BAND, windows) + side - 1)
        total += float(_similarity(output[rows], target[rows], protocol).sum())
    return float(total / (windows * (output.shape[1] - side + 1)))


def _similarity(output: Floats, target: Floats, protocol: Protocol) -> Floats:
    """SSIM of each window that lies inside."""
    taps = protocol.taps
    mean_a, mean_b = _blur(output, taps), _blur(target, taps)
    product, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    count = protocol.window**2
    unbiased = count / (count - 1) if protocol.sample_covariance else 1.0
    covariance = (_blur(output * target, taps) - product) * unbiased
    variances = (_blur(output**2 + target**2, taps) - squares) * unbiased
    similarity: Floats = (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))
    return similarity


def _same_shape(output: Floats, target: Floats) -> None:
    if output.shape != target.shape:
        raise UsageError(f"cannot compare an image of shape {output.shape} with one of shape {target.shape}")


def _blur(image: Floats, taps: Floats) -> Floats:
    """Window sums at the positions where the window fits; the two-dimensional window is separable."""
    rows, columns = (side - len(taps) + 1 for side in image.shape)
    down: Floats = sum((tap * image[i : i + rows] for i, tap in enumerate(taps)), np.zeros((rows, image.shape[1])))
    return sum((tap * down[:, i : i + columns] for i, tap in enumerate(taps)), np.zeros((rows, columns)))
