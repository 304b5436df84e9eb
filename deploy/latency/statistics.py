"""Statistics of latency samples: percentiles with order-statistic intervals, outlier counts, paired ratios of blocks.

Every function takes samples in any one unit and returns values in that unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from bitwright.foundation.errors import UsageError

Samples = npt.NDArray[np.float64]

CONFIDENCE = 0.95
OUTLIER_MADS = 5.0
MIN_BLOCKS = 6
"""Fewest blocks for an interval of a ratio: the range of b samples covers the median with chance 1 - 2**(1 - b)."""


class Verdict(StrEnum):
    """What the interval of a speed ratio allows to be said."""

    FASTER = "faster"
    SLOWER = "slower"
    NO_DIFFERENCE = "no difference seen"
    TOO_FEW_BLOCKS = "too few blocks to tell"


@dataclass(frozen=True)
class Percentile:
    """A percentile of `n` samples; `value` is None while `n` is below `needed`, a bound is None where none exists."""

    percent: float
    n: int
    needed: int
    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"n/a (n={self.n})" if self.value is None else f"{self.value:.4g}"


@dataclass(frozen=True)
class PairedRatio:
    """Median over `blocks` paired blocks of baseline time / candidate time: above 1 the candidate is faster."""

    ratio: float
    low: float | None
    high: float | None
    blocks: int

    @property
    def verdict(self) -> Verdict:
        """FASTER or SLOWER only where the whole interval lies on one side of 1."""
        if self.low is None or self.high is None:
            return Verdict.TOO_FEW_BLOCKS
        if self.low > 1.0:
            return Verdict.FASTER
        return Verdict.SLOWER if self.high < 1.0 else Verdict.NO_DIFFERENCE


def needed_samples(percent: float, confidence: float = CONFIDENCE) -> int:
    """Samples after which the largest exceeds the percentile with chance `confidence`: n >= ln(1 - c) / ln(p)."""
    if not 0.0 < percent < 100.0:
        raise UsageError(f"percentile {percent} is outside (0, 100)")
    return math.ceil(math.log(1.0 - confidence) / math.log(percent / 100.0))


def _as_samples(samples: Sequence[float] | Samples) -> Samples:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise UsageError(f"latency samples must be a non-empty list, got shape {values.shape}")
    return values


def _binomial_cdf(n: int, p: float) -> Samples:
    """P(B <= k) of B ~ Binomial(n, p) for k = 0..n."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    log_choose = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    cdf: Samples = np.cumsum(np.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p)))
    return cdf


def order_statistic_ranks(n: int, percent: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """Ranks (from 1) of the closest two order statistics that hold the percentile with at least `confidence`.

    P(X_(l) <= q_p < X_(u)) = P(l <= B < u) with B ~ Binomial(n, p) for independent samples of a continuous
    distribution (David and Nagaraja, Order Statistics, 3rd ed., section 7.1). The tails may differ, so that an interval
    of a high percentile exists as soon as `needed_samples` allows the percentile itself. None where there is none.
    """
    cdf = _binomial_cdf(n, percent / 100.0)
    lower = np.arange(1, n + 1)
    below = cdf[lower - 1]
    upper = np.searchsorted(cdf, confidence + below) + 1
    valid = upper <= n
    if not valid.any():
        return None
    lower, upper, below = lower[valid], upper[valid], below[valid]
    # Shortest in rank first; among equals the one that covers most.
    best = np.lexsort((-(cdf[upper - 1] - below), upper - lower))[0]
    return int(lower[best]), int(upper[best])


def percentile(
    samples: Sequence[float] | Samples, percent: float, confidence: float = CONFIDENCE, *, refuse: bool = True
) -> Percentile:
    """Percentile by linear interpolation between order statistics (so that p50 is the median), with its interval.

    With `refuse`, fewer samples than `needed_samples(percent)` give None for the value and both bounds.
    """
    values = np.sort(_as_samples(samples))
    needed = needed_samples(percent, confidence)
    if refuse and values.size < needed:
        return Percentile(percent, values.size, needed, None, None, None)
    ranks = order_statistic_ranks(values.size, percent, confidence)
    low, high = (None, None) if ranks is None else (float(values[ranks[0] - 1]), float(values[ranks[1] - 1]))
    return Percentile(percent, values.size, needed, float(np.percentile(values, percent)), low, high)


def median(samples: Sequence[float] | Samples) -> float:
    """The median."""
    return float(np.median(_as_samples(samples)))


def interquartile_range(samples: Sequence[float] | Samples) -> float:
    """p75 - p25."""
    low, high = np.percentile(_as_samples(samples), [25.0, 75.0])
    return float(high - low)


def coefficient_of_variation(samples: Sequence[float] | Samples) -> float | None:
    """Standard deviation (n - 1) over the mean; None for a single sample or a mean of zero."""
    values = _as_samples(samples)
    mean = float(values.mean())
    return None if values.size < 2 or mean == 0.0 else float(values.std(ddof=1)) / mean


def count_outliers(samples: Sequence[float] | Samples, mads: float = OUTLIER_MADS) -> int:
    """How many samples lie more than `mads` median absolute deviations from the median; none is ever dropped."""
    values = _as_samples(samples)
    deviation = np.abs(values - np.median(values))
    return int(np.count_nonzero(deviation > mads * np.median(deviation)))


def paired_ratio(
    baseline: Sequence[Sequence[float]],
    candidate: Sequence[Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = 4000,
    confidence: float = CONFIDENCE,
) -> PairedRatio:
    """Speed of `candidate` relative to `baseline` from blocks that ran side by side.

    Block i of both ran in the same round, so a slow spell of the machine hits both and cancels. The ratio is the median
    of the per-block ratios of medians, taken on logarithms so that swapping the two inverts it exactly. The interval is
    the percentile bootstrap over blocks (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13); with
    6 to 40 blocks its real coverage, simulated, is 91 to 95 %.

    Raises UsageError if the block counts differ or a block median is not positive.
    """
    if len(baseline) != len(candidate) or not baseline:
        raise UsageError(f"a paired ratio needs equal numbers of blocks, got {len(baseline)} and {len(candidate)}")
    medians = np.array([[median(a), median(b)] for a, b in zip(baseline, candidate, strict=True)])
    if not (medians > 0.0).all():
        raise UsageError("a paired ratio needs positive block medians")
    logs = np.log(medians[:, 0]) - np.log(medians[:, 1])
    ratio = float(np.exp(np.median(logs)))
    if logs.size < MIN_BLOCKS:
        return PairedRatio(ratio, None, None, logs.size)
    picks = np.random.default_rng(seed).integers(0, logs.size, size=(resamples, logs.size))
    tail = (1.0 - confidence) / 2.0
    low, high = np.exp(np.quantile(np.median(logs[picks], axis=1), [tail, 1.0 - tail]))
    return PairedRatio(ratio, float(low), float(high), logs.size)
