"""When a series of run times counts as steady."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.latency.steadiness import is_steady


def test_constant_times_are_steady_once_there_are_enough() -> None:
    assert not is_steady([5.0] * 14)
    assert is_steady([5.0] * 16)


@pytest.mark.parametrize("n", [24, 200, 5000])
def test_noise_without_a_trend_is_mostly_steady(n: int) -> None:
    generator = np.random.default_rng(n)
    steady = [is_steady((10 + generator.normal(0, 1.0, n)).tolist()) for _ in range(50)]
    assert sum(steady) >= 40


@pytest.mark.parametrize("n", [24, 200, 5000])
def test_a_trend_above_the_noise_is_not_steady(n: int) -> None:
    generator = np.random.default_rng(n)
    trend = np.linspace(20, 10, n)
    assert not any(is_steady((trend + generator.normal(0, 0.3, n)).tolist()) for _ in range(50))


def test_a_slow_start_followed_by_a_level_stretch_is_steady() -> None:
    assert is_steady([50.0, 30.0, 20.0, 14.0, *[10.0] * 40])


def test_tolerance_decides_on_a_small_clean_drift() -> None:
    drift = np.linspace(10.0, 9.0, 64).tolist()
    assert not is_steady(drift, tolerance=0.01)
    assert is_steady(drift, tolerance=0.1)


def test_a_single_spike_does_not_break_steadiness() -> None:
    times = [10.0 + 0.01 * (i % 3) for i in range(60)]
    times[50] = 500.0
    assert is_steady(times)
