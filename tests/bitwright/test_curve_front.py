"""Which points of a curve are dominated, and which one is picked."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.report.tradeoff_curve import non_dominated
from bitwright.runs.curve_choice import pick
from tests.bitwright.curve_helpers import point

POINTS = [point("float", 100, 30.0), point("slow", 80, 29.9), point("half", 50, 29.96), point("int8", 30, 29.8)]


def test_a_point_that_is_slower_and_worse_is_dominated() -> None:
    assert non_dominated([100, 80, 50, 30], [30.0, 29.9, 29.96, 29.8]) == (True, False, True, True)


def test_equal_points_stay_and_an_equal_cost_needs_the_better_quality() -> None:
    assert non_dominated([1, 1, 1, 2], [5.0, 5.0, 4.0, 5.0]) == (True, True, False, False)
    assert non_dominated([], []) == ()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_front_dominates_the_rest_and_itself_in_nothing(pairs: list[tuple[int, int]]) -> None:
    costs, qualities = [float(c) for c, _ in pairs], [float(q) for _, q in pairs]
    flags = non_dominated(costs, qualities)
    front = [pair for pair, flag in zip(pairs, flags, strict=True) if flag]
    assert front
    for cost, quality in (pair for pair, flag in zip(pairs, flags, strict=True) if not flag):
        assert any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in front)
    ordered = sorted(set(front))
    assert all(a[1] < b[1] for a, b in pairwise(ordered))


@pytest.mark.parametrize(
    ("budget", "drop", "wanted", "reached"),
    [
        (60, None, "half", True),
        (1000, None, "float", True),
        (29, None, "int8", False),
        (None, 0.1, "half", True),
        (None, 0.5, "int8", True),
        (None, 0.0, "float", True),
        (90, 0.1, "half", True),
        (40, 0.1, "int8", False),
    ],
)
def test_the_pick_keeps_its_limits(budget: float | None, drop: float | None, wanted: str, reached: bool) -> None:
    choice = pick(POINTS, budget_ms=budget, max_drop=drop, unit="dB")
    assert choice is not None
    assert (choice.point, choice.reached) == (wanted, reached)


def test_without_a_limit_nothing_is_picked() -> None:
    assert pick(POINTS, budget_ms=None, max_drop=None, unit="dB") is None


def test_held_out_samples_choose_and_a_broken_promise_is_told() -> None:
    points = [point("float", 100, 30.0), point("lucky", 20, 29.7, held_out_drop=0.01)]
    choice = pick(points, budget_ms=None, max_drop=0.1, unit="dB")
    assert choice is not None
    assert (choice.point, choice.reached) == ("lucky", False)
    assert "0.300 dB" in choice.why


def test_an_unreachable_budget_names_the_fastest_and_its_time() -> None:
    choice = pick(POINTS, budget_ms=5, max_drop=None, unit="dB")
    assert choice is not None
    assert "no point runs within 5 ms" in choice.why
    assert "30.00 ms" in choice.why
