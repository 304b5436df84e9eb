"""Percentiles, their intervals and refusals; outliers; paired ratios."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.foundation.errors import UsageError
from deploy.latency.statistics import (
    MIN_BLOCKS,
    PairedRatio,
    Verdict,
    coefficient_of_variation,
    count_outliers,
    interquartile_range,
    needed_samples,
    order_statistic_ranks,
    paired_ratio,
    percentile,
)


@pytest.mark.parametrize(("percent", "needed"), [(50, 5), (90, 29), (95, 59), (99, 299), (99.9, 2995)])
def test_needed_samples_are_the_published_ones(percent: float, needed: int) -> None:
    assert needed_samples(percent) == needed


@pytest.mark.parametrize("percent", [0.0, 100.0, -5.0, 250.0])
def test_a_percentile_outside_the_open_interval_is_refused(percent: float) -> None:
    with pytest.raises(UsageError, match="outside"):
        needed_samples(percent)


@pytest.mark.parametrize(("percent", "needed"), [(90, 29), (95, 59), (99, 299)])
def test_a_percentile_is_refused_one_sample_below_its_need_and_has_an_interval_at_it(percent: int, needed: int) -> None:
    below = percentile([float(i) for i in range(needed - 1)], percent)
    assert (below.value, below.low, below.high) == (None, None, None)
    assert str(below) == f"n/a (n={needed - 1})"
    at = percentile([float(i) for i in range(needed)], percent)
    assert at.value == pytest.approx((needed - 1) * percent / 100)
    assert at.high == needed - 1
    assert at.low is not None
    assert at.low < (needed - 1) * percent / 100


@pytest.mark.parametrize(("n", "ranks"), [(5, None), (6, (1, 6)), (10, (2, 9)), (20, (6, 15))])
def test_ranks_of_the_median_interval_match_the_textbook_table(n: int, ranks: tuple[int, int] | None) -> None:
    assert order_statistic_ranks(n, 50.0) == ranks


def exact_coverage(n: int, p: float, low: int, high: int) -> float:
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(low, high))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(6, 60), percent=st.floats(5, 95))
def test_the_interval_covers_and_no_shorter_one_does(n: int, percent: float) -> None:
    p = percent / 100
    ranks = order_statistic_ranks(n, percent)
    pairs = [(low, high) for low in range(1, n + 1) for high in range(low + 1, n + 1)]
    widths = [high - low for low, high in pairs if exact_coverage(n, p, low, high) >= 0.95 + 1e-9]
    if ranks is None:
        assert not widths
        return
    low, high = ranks
    assert exact_coverage(n, p, low, high) >= 0.95 - 1e-9
    assert not widths or high - low <= min(widths)


def test_the_interval_of_p90_holds_the_true_value_about_95_times_in_100() -> None:
    generator = np.random.default_rng(3)
    truth = -math.log(0.1)
    hits = 0
    for _ in range(600):
        estimate = percentile(generator.exponential(size=80), 90)
        assert estimate.low is not None
        assert estimate.high is not None
        hits += estimate.low <= truth <= estimate.high
    assert 0.92 <= hits / 600 <= 0.99


def test_golden_values_of_spread() -> None:
    samples = [10.0, 11.0, 12.0, 13.0, 14.0]
    assert interquartile_range(samples) == 2.0
    assert coefficient_of_variation(samples) == pytest.approx(math.sqrt(2.5) / 12)
    assert coefficient_of_variation([4.0]) is None


def test_outliers_lie_beyond_five_mad_and_the_limit_itself_does_not() -> None:
    # Median 12, MAD 1: the limits are 7 and 17.
    assert count_outliers([11.0, 12.0, 13.0, 11.0, 13.0, 12.0, 17.0]) == 0
    assert count_outliers([11.0, 12.0, 13.0, 11.0, 13.0, 17.01, 6.9]) == 2
    assert count_outliers([5.0, 5.0, 5.0, 5.0, 5.1]) == 1


@pytest.mark.parametrize("samples", [[], [[1.0, 2.0]]])
def test_no_samples_are_refused(samples: list[float]) -> None:
    with pytest.raises(UsageError, match="non-empty"):
        percentile(samples, 50)


def test_a_slow_spell_that_hits_both_cancels_in_the_paired_ratio() -> None:
    spell = np.array([1.0, 1.0, 3.0, 3.0, 3.0, 1.0, 1.0, 2.0])
    generator = np.random.default_rng(0)
    baseline = [s * (10 + generator.normal(0, 0.05, 9)) for s in spell]
    candidate = [s * (4 + generator.normal(0, 0.05, 9)) for s in spell]
    ratio = paired_ratio(baseline, candidate)
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < 2.5 < ratio.high
    assert ratio.high - ratio.low < 0.1
    assert ratio.verdict is Verdict.FASTER


def test_equal_engines_show_no_difference() -> None:
    generator = np.random.default_rng(1)
    blocks = generator.normal(10, 0.5, (2, 20, 7))
    ratio = paired_ratio(blocks[0].tolist(), blocks[1].tolist())
    assert ratio.verdict is Verdict.NO_DIFFERENCE
    assert ratio.ratio == pytest.approx(1.0, abs=0.03)


def test_the_interval_of_equal_engines_straddles_one_about_95_times_in_100() -> None:
    generator = np.random.default_rng(7)
    straddles = 0
    for seed in range(400):
        blocks = np.exp(generator.normal(0, 0.02, (10, 1)))
        verdict = paired_ratio(blocks.tolist(), [[1.0]] * 10, seed=seed, resamples=500).verdict
        straddles += verdict is Verdict.NO_DIFFERENCE
    assert 0.90 <= straddles / 400 <= 0.99


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.001, 2.0, Verdict.FASTER),
        (0.5, 0.999, Verdict.SLOWER),
        (1.0, 1.2, Verdict.NO_DIFFERENCE),
        (0.8, 1.0, Verdict.NO_DIFFERENCE),
        (None, None, Verdict.TOO_FEW_BLOCKS),
    ],
)
def test_verdict_at_its_edges(low: float | None, high: float | None, verdict: Verdict) -> None:
    assert PairedRatio(1.0, low, high, 9).verdict is verdict
    assert Verdict.NO_DIFFERENCE.value == "no difference seen"


@settings(max_examples=25, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=MIN_BLOCKS, max_size=20),
    seed=st.integers(0, 99),
)
def test_swapping_the_engines_inverts_ratio_and_interval(pairs: list[tuple[float, float]], seed: int) -> None:
    first, second = [[a] for a, _ in pairs], [[b] for _, b in pairs]
    forward = paired_ratio(first, second, seed=seed, resamples=400)
    backward = paired_ratio(second, first, seed=seed, resamples=400)
    assert forward.ratio == pytest.approx(1 / backward.ratio)
    assert forward.low is not None
    assert backward.high is not None
    assert forward.low == pytest.approx(1 / backward.high)


def test_few_blocks_have_a_ratio_but_no_interval() -> None:
    ratio = paired_ratio([[6.0]] * (MIN_BLOCKS - 1), [[2.0]] * (MIN_BLOCKS - 1))
    assert ratio.ratio == pytest.approx(3.0)
    assert ratio.low is None
    assert ratio.verdict is Verdict.TOO_FEW_BLOCKS


def test_unequal_blocks_and_zero_times_are_refused() -> None:
    with pytest.raises(UsageError, match="equal numbers"):
        paired_ratio([[1.0]], [[1.0], [1.0]])
    with pytest.raises(UsageError, match="positive"):
        paired_ratio([[1.0]], [[0.0]])
