"""Antialiased bicubic resizing of 8-bit and 16-bit images: the degradation of training, calibration and evaluation.

Equal to MATLAB `imresize(image, factor, "bicubic")` on uint8 images bit for bit: Keys' kernel with a = -1/2, widened by
1/factor when shrinking, symmetric border, first over the rows and then over the columns, rounded to 8 bits after each.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, lcm
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation.errors import UsageError

Sample = TypeVar("Sample", np.uint8, np.uint16)

# The accumulators of one block stay in the processor's second-level cache.
_BLOCK_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class _Phase:
    """One in `period` output pixels: integer taps over input pixels from `start` on, moving on by the factor's step."""

    start: int
    weights: tuple[int, ...]
    denominator: int


def _cubic(x: Fraction) -> Fraction:
    """Keys' cubic convolution kernel, a = -1/2 (R. Keys 1981, eq. 15), exact."""
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x < 2:
        return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


@lru_cache(maxsize=64)
def _phases(factor: Fraction) -> tuple[_Phase, ...]:
    """The filters of the `factor.numerator` output positions after which the pattern repeats, as exact integers."""
    stretch = min(factor, Fraction(1))
    reach = 2 / stretch
    phases = []
    for position in range(factor.numerator):
        centre = (position + Fraction(1, 2)) / factor - Fraction(1, 2)
        first, last = floor(centre - reach) + 1, ceil(centre + reach) - 1
        weights = [_cubic((index - centre) * stretch) for index in range(first, last + 1)]
        total = sum(weights)
        weights = [weight / total for weight in weights]
        denominator = lcm(*(weight.denominator for weight in weights))
        phases.append(_Phase(first, tuple(int(weight * denominator) for weight in weights), denominator))
    return tuple(phases)


def _resize_rows(image: NDArray[Sample], factor: Fraction) -> NDArray[Sample]:
    """Resize axis 0 of a [length, n] array; the result has ceil(length * factor) rows."""
    length, width = image.shape
    out_length = ceil(length * factor)
    phases, step, period = _phases(factor), factor.denominator, factor.numerator
    before = max(0, -min(phase.start for phase in phases))
    reads = -(-out_length // period) * step + max(phase.start + len(phase.weights) for phase in phases)
    padded = np.pad(image, ((before, max(0, reads - length)), (0, 0)), mode="symmetric")
    out = np.empty((out_length, width), image.dtype)
    peak = int(np.iinfo(image.dtype).max)
    for position, phase in enumerate(phases):
        target = out[position::period]
        limit = 2 * peak * (sum(map(abs, phase.weights)) + phase.denominator)
        integer = np.int32 if limit < 2**31 else np.int64
        rows = max(1, _BLOCK_ELEMENTS // width)
        for begin in range(0, target.shape[0], rows):
            block = target[begin : begin + rows]
            # Half a denominator turns the floor division into rounding with ties away from zero, as MATLAB's uint8()
            # does; negative sums, the other side of that rule, are clipped to 0 anyway.
            total = np.full(block.shape, phase.denominator, integer)
            product = np.empty(block.shape, integer)
            for tap, weight in enumerate(phase.weights):
                first = before + phase.start + tap + begin * step
                source = padded[first : first + (block.shape[0] - 1) * step + 1 : step]
                np.multiply(source, 2 * weight, out=product, dtype=integer)
                total += product
            np.clip(total, 0, 2 * peak * phase.denominator + phase.denominator, out=total)
            total //= 2 * phase.denominator
            block[...] = total
    return out


def resize(image: NDArray[Sample], factor: Fraction | int) -> NDArray[Sample]:
    """Resize an image [H, W] or [H, W, C] to [ceil(H * factor), ceil(W * factor)] by an exact rational factor.

    8 or 16 bits. Integer arithmetic throughout, so the result does not depend on the machine. UsageError if the factor
    is not positive, the image is empty or neither uint8 nor uint16.
    """
    factor = Fraction(factor)
    if factor <= 0:
        raise UsageError(f"the resizing factor must be positive, got {factor}")
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or image.size == 0:
        raise UsageError(
            f"bicubic resizing takes a non-empty uint8 or uint16 image [H, W(, C)], got {image.dtype} {image.shape}"
        )
    pixels = image if image.ndim == 3 else image[:, :, None]
    height, width, channels = pixels.shape
    rows = _resize_rows(np.ascontiguousarray(pixels).reshape(height, width * channels), factor)
    turned = np.ascontiguousarray(rows.reshape(-1, width, channels).transpose(1, 0, 2))
    columns = _resize_rows(turned.reshape(width, -1), factor)
    resized = np.ascontiguousarray(columns.reshape(columns.shape[0], -1, channels).transpose(1, 0, 2))
    return resized if image.ndim == 3 else resized[:, :, 0]


def downscale(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Shrink an 8-bit image by the integer `scale`; crop it to multiples first (`crop_to_multiple`)."""
    return resize(image, Fraction(1, scale))


def upscale(image: NDArray[Sample], scale: int) -> NDArray[Sample]:
    """Enlarge an 8-bit or 16-bit image by the integer `scale`."""
    return resize(image, scale)


def crop_to_multiple(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Drop rows at the bottom and columns at the right until both sides divide by `scale`."""
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]
