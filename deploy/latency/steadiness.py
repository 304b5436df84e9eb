"""When a warm-up may end: the slope of a sliding median is within noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_POINTS = 32
_WIDTH = 5
_FEWEST = 8
_MAD_TO_SIGMA = 1.4826


def is_steady(samples: Sequence[float], tolerance: float = 0.01) -> bool:
    """True where the later half of `samples` drifts by no more than its own noise (or `tolerance` of its median).

    The later half is reduced to at most 32 medians of consecutive runs, smoothed by a sliding median of 5, and a line
    is fitted; the drift is the height of the line. Noise is two standard errors of that height for independent points,
    2 s sqrt(12 / m), with s the robust deviation (1.4826 MAD) of the m points from the line.
    """
    later = np.asarray(samples[len(samples) // 2 :], dtype=np.float64)
    if later.size < _FEWEST:
        return False
    points = np.array([np.median(part) for part in np.array_split(later, min(_POINTS, later.size))])
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(points, _WIDTH), axis=1)
    slope = float(np.polyfit(np.arange(smooth.size), smooth, 1)[0])
    residual = points - slope * np.arange(points.size)
    deviation = _MAD_TO_SIGMA * float(np.median(np.abs(residual - np.median(residual))))
    noise = 2.0 * deviation * math.sqrt(12.0 / points.size)
    return abs(slope) * (points.size - 1) <= max(noise, tolerance * float(np.median(points)))
