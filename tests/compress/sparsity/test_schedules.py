"""Golden schedules: betas, frames and phases at the places where they change."""

from __future__ import annotations

import math

import pytest

from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity
from compress.sparsity.action import DENSE
from compress.sparsity.methods import METHODS
from compress.sparsity.schedules import ExponentialDecay, LinearDecay, Phase, Phases, frame_at, geometric, stepwise

BEFORE_1 = 1 - 1e-9


def names(frames: tuple[Sparsity, ...]) -> list[str]:
    return [str(p) for p in frames]


@pytest.mark.parametrize(
    ("target", "frames"),
    [
        ("2:4", ["3:4", "2:4"]),
        ("1:4", ["3:4", "2:4", "1:4"]),
        ("1:8", ["7:8", "4:8", "2:8", "1:8"]),
        ("1:16", ["15:16", "8:16", "4:16", "2:16", "1:16"]),
        ("1:32", ["31:32", "16:32", "8:32", "4:32", "2:32", "1:32"]),
        ("1:6", ["5:6", "3:6", "1:6", "1:6"]),
        ("4:4", ["4:4"]),
    ],
)
def test_stepwise_frames(target: str, frames: list[str]) -> None:
    assert names(stepwise(Sparsity.parse(target))) == frames


def test_geometric_frames_keep_the_density_and_fit_the_layer() -> None:
    target = Sparsity.parse("1:8")
    assert names(geometric(target, 64)) == ["8:64", "4:32", "2:16", "1:8"]
    assert names(geometric(target, 128, 16)) == ["16:128", "8:64", "4:32", "2:16", "1:8"]
    assert names(geometric(target, 48)) == ["2:16", "1:8"]
    assert names(geometric(target, 8)) == ["1:8"]
    with pytest.raises(UsageError, match="power of two"):
        geometric(target, 64, 6)


def test_frames_change_at_equal_shares() -> None:
    frames = stepwise(Sparsity.parse("1:8"))
    at = {u: str(frame_at(u, frames)) for u in (0.0, 0.24, 0.25, 0.5, 0.75, BEFORE_1, 1.0)}
    assert list(at.values()) == ["7:8", "7:8", "4:8", "2:8", "1:8", "1:8", "1:8"]


def test_betas_at_golden_places() -> None:
    linear, exponential = LinearDecay(), ExponentialDecay()
    assert [linear(u) for u in (0.0, 0.25, 0.5)] == pytest.approx([1.0, 0.6875, 0.375])
    assert linear(0.75) == pytest.approx(0.0625)
    assert linear(0.8) == linear(BEFORE_1) == linear(1.0) == 0.0
    assert [exponential(u) for u in (0.0, 0.25, 0.5, 0.75)] == pytest.approx(
        [1.0, 0.22313, 0.049787, 0.011109], rel=1e-4
    )
    assert exponential(BEFORE_1) == pytest.approx(math.exp(-6), rel=1e-6)
    assert exponential(1.0) == 0.0


def test_per_step_rates_of_the_authors_do_not_depend_on_the_length() -> None:
    """c = 2e-4 ends after 5000 steps of decay, whatever the total; the exponential gives exp(-c t)."""
    for total in (20_000, 40_000):
        phases = Phases(total, dense=0.1, fine_tune=0.1)
        linear, exponential = LinearDecay.per_step(2e-4, phases), ExponentialDecay.per_step(1e-4, phases)
        step = phases.start + 2500
        assert linear(phases.progress(step)) == pytest.approx(0.5)
        assert exponential(phases.progress(step)) == pytest.approx(math.exp(-0.25))
        assert linear(phases.progress(phases.start + 5000)) == pytest.approx(0.0, abs=1e-12)


def test_the_warm_up_is_a_share_and_nothing_decays_in_it() -> None:
    """Trap: a share that is divided by 100 once more starts the decay at the first steps."""
    phases = Phases(1000, dense=0.1, fine_tune=0.2)
    assert (phases.start, phases.end) == (100, 800)
    assert [phases.phase(s) for s in (0, 99, 100, 799, 800)] == [
        Phase.DENSE, Phase.DENSE, Phase.DECAY, Phase.DECAY, Phase.FINE_TUNE
    ]  # fmt: skip
    target = Sparsity.parse("1:8")
    method = METHODS["mdgf_linear"]
    assert method.at(99, phases, target, 64) == DENSE
    assert method.at(100, phases, target, 64).beta == 1.0
    assert method.at(450, phases, target, 64).beta == pytest.approx(1 - 0.5 / 0.8)
    with pytest.raises(UsageError, match="shares between 0 and 1"):
        Phases(1000, dense=10, fine_tune=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_actions_are_functions_of_the_step_and_end_at_the_target(name: str) -> None:
    """Trap: a pattern switched only in the step that equals a boundary stays wrong where a run resumes behind it."""
    method, phases, target = METHODS[name], Phases(200, dense=0.1, fine_tune=0.25), Sparsity.parse("1:8")
    walked = [method.at(step, phases, target, 64) for step in range(200)]
    assert [method.at(step, phases, target, 64) for step in (199, 57, 120)] == [walked[199], walked[57], walked[120]]
    assert all(a == DENSE for a in walked[:20])
    assert walked[-1].beta == 0.0
    if name != "dense":
        assert walked[-1].pattern == target
    frozen = {a.frozen for a in walked[phases.end :]}
    assert frozen == {name not in ("dense", "ste", "sr_ste")}
    assert not any(a.frozen for a in walked[20 : phases.end]) or name == "one_shot"


@pytest.mark.parametrize(("target", "mean"), [("1:4", 0.500), ("1:8", 0.4375), ("1:16", 0.375), ("1:32", 0.323)])
def test_mean_densities_of_stepwise_frames(target: str, mean: float) -> None:
    frames = stepwise(Sparsity.parse(target))
    assert sum(p.density for p in frames) / len(frames) == pytest.approx(mean, abs=5e-4)
