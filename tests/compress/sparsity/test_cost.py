"""FLOPs of training and inference against the cost model's closed forms."""

from __future__ import annotations

import pytest

from compress.nm_pattern import Sparsity
from compress.sparsity.action import Action, fixed
from compress.sparsity.cost import (
    Shares,
    TrainedLayer,
    equal_flops_steps,
    inference_macs,
    step_shares,
    training_flops,
)
from compress.sparsity.methods import METHODS
from compress.sparsity.schedules import Phases

PATTERN = Sparsity(n=1, m=4)


@pytest.mark.parametrize(
    ("action", "algorithmic", "realisable"),
    [
        (Action(), (1, 1, 1), (1, 1, 1)),
        (fixed(PATTERN), (0.25, 0.25, 0.25), (0.25, 1, 0.25)),
        (Action(PATTERN), (0.25, 0.25, 1), (0.25, 1, 1)),
        (Action(PATTERN, beta=0.1, restricted=True), (1, 1, 1), (1, 1, 1)),
        (Action(PATTERN, beta=0.0, restricted=True), (0.25, 0.25, 0.25), (0.25, 1, 0.25)),
        (Action(Sparsity(n=2, m=4)), (0.5, 0.5, 1), (0.5, 1, 1)),
    ],
)
def test_shares_of_each_phase(action: Action, algorithmic: tuple[float, ...], realisable: tuple[float, ...]) -> None:
    assert step_shares(action) == Shares(*algorithmic)
    assert step_shares(action, realisable=True) == Shares(*realisable)
    assert step_shares(action, realisable=True, transposable=True) == Shares(*algorithmic)


def test_flops_of_whole_trainings() -> None:
    phases, layers = Phases(100, fine_tune=0.2), [TrainedLayer(1000, PATTERN, 64), TrainedLayer(500)]
    dense = training_flops(METHODS["dense"], phases, layers, samples=2)
    assert dense.algorithmic == dense.realisable == 6 * 1500 * 2 * 100
    ste = training_flops(METHODS["ste"], phases, layers)
    assert ste.algorithmic == 2 * (1000 * 1.5 + 500 * 3) * 100
    stepwise = training_flops(METHODS["sdgf_stepwise"], Phases(300, fine_tune=0.0), layers[:1])
    # Frames 3:4, 2:4, 1:4 of 100 steps each; the forward product and the input's gradient share a mean of 0.5.
    assert stepwise.algorithmic == pytest.approx(2 * 1000 * (0.5 + 0.5 + 1) * 300)
    mdgf = training_flops(METHODS["mdgf_exponential"], Phases(100, fine_tune=0.0), layers)
    assert mdgf.algorithmic == dense.algorithmic / 2


def test_equal_flops_gives_cheap_methods_more_steps() -> None:
    phases, layers = Phases(100, fine_tune=0.0), [TrainedLayer(1000, PATTERN, 64)]
    assert equal_flops_steps(METHODS["dense"], phases, layers) == 100
    assert equal_flops_steps(METHODS["ste"], phases, layers) == 200
    assert equal_flops_steps(METHODS["one_shot"], phases, layers, share=0.5) == 200
    assert equal_flops_steps(METHODS["mdgf_exponential"], phases, layers) == 100


@pytest.mark.parametrize("text", ["2:4", "1:8", "1:16"])
def test_macs_of_a_sparse_body_scale_as_n_over_m(text: str) -> None:
    pattern = Sparsity.parse(text)
    body = [TrainedLayer(64 * 64 * 9 * 48 * 48, pattern, 64)] * 16
    dense = [TrainedLayer(layer.macs) for layer in body]
    assert inference_macs(body) == pytest.approx(pattern.n / pattern.m * inference_macs(dense))
