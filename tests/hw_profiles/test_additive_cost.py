"""AdditiveCost finds the terms that made a network's times, from kernels or from bare totals."""

from __future__ import annotations

import itertools
import random

import pytest

from bitwright.foundation.errors import UsageError
from hw_profiles.additive_cost import AdditiveCost
from hw_profiles.kernel import Kernel, TensorType
from hw_profiles.predictor.prediction import KernelTime, Prediction, Source

LAYERS = ("a", "b", "c", "d", "e")
EDGES = (*itertools.pairwise(LAYERS), ("a", "e"))
LAYER_MS = {
    name: {"fp32": 4.0 * (k + 1), "bf16": 2.0 * (k + 1), "int8": 1.0 * (k + 1)} for k, name in enumerate(LAYERS)
}
CROSSING_MS = {("fp32", "int8"): 0.6, ("int8", "fp32"): 0.3, ("bf16", "int8"): 0.5, ("int8", "bf16"): 0.2}
CONSTANT_MS = 0.7


def crossing(plan: dict[str, str], edge: tuple[str, str]) -> float:
    return CROSSING_MS.get((plan[edge[0]], plan[edge[1]]), 0.0)


def truth(plan: dict[str, str]) -> float:
    return CONSTANT_MS + sum(LAYER_MS[i][p] for i, p in plan.items()) + sum(crossing(plan, e) for e in EDGES)


def kernel(op: str, layers: tuple[str, ...]) -> Kernel:
    tensor = TensorType(shape=(1, 8, 4, 4), dtype="fp32")
    return Kernel(op=op, precision="fp32", inputs=(tensor,), outputs=(tensor,), layers=layers)


def prediction(plan: dict[str, str]) -> Prediction:
    times = [(kernel("Convolution", (i,)), LAYER_MS[i][p]) for i, p in plan.items()]
    times += [(kernel("Reorder", ()), crossing(plan, edge)) for edge in EDGES]
    times += [(kernel("DepthToSpace", ()), CONSTANT_MS)]
    kernels = tuple(KernelTime(kernel=k, ms=ms, source=Source.MEASURED) for k, ms in times)
    return Prediction(ms=truth(plan), kernels=kernels, coverage=1.0, peak_memory_bytes=0)


def plans(count: int, seed: int = 0) -> list[dict[str, str]]:
    rng = random.Random(seed)
    uniform = [dict.fromkeys(LAYERS, p) for p in ("fp32", "bf16", "int8")]
    return uniform + [{i: rng.choice(("fp32", "bf16", "int8")) for i in LAYERS} for _ in range(count - 3)]


def test_few_plans_with_kernels_give_every_layer_and_boundary() -> None:
    cost = AdditiveCost.fit([(p, prediction(p)) for p in plans(12)], EDGES)
    for plan in plans(40, seed=1):
        assert cost.ms(plan) == pytest.approx(truth(plan), rel=0.01)
    for layer, costs in LAYER_MS.items():
        assert cost.layer_ms[layer] == pytest.approx(costs, rel=0.02)
    assert cost.constant_ms == pytest.approx(CONSTANT_MS, abs=0.1)
    assert cost.boundary_ms("b", "c")["fp32"]["int8"] == pytest.approx(0.6, abs=0.1)
    assert "fp32" not in cost.boundary_ms("b", "c")["fp32"]
    assert cost.boundary_ms("c", "b") == {}


def test_bare_times_predict_unseen_plans_and_the_error_says_how_well() -> None:
    cost = AdditiveCost.fit([(p, truth(p)) for p in plans(60)], EDGES)
    errors = [abs(cost.ms(p) - truth(p)) / truth(p) for p in plans(40, seed=1)]
    assert max(errors) < 0.03
    assert cost.error.held_out_median is not None
    assert cost.error.held_out_median < 0.02
    assert cost.error.median <= cost.error.held_out_median
    assert cost.error.observations == 60


def test_error_of_times_that_are_no_sum_is_seen_in_held_out_plans() -> None:
    rng = random.Random(2)
    noisy = [(p, truth(p) * rng.choice((0.5, 2.0))) for p in plans(20)]
    error = AdditiveCost.fit(noisy, EDGES).error
    assert error.held_out_median is not None
    assert error.held_out_median > 0.2


def test_unattributed_time_is_shared_out_by_weight() -> None:
    observed = [(dict.fromkeys(LAYERS, "fp32"), 10.0), (dict.fromkeys(LAYERS, "int8"), 4.0)]
    cost = AdditiveCost.fit(observed, EDGES, weights={"a": 9.0, "b": 1.0})
    gain = {i: costs["fp32"] - costs["int8"] for i, costs in cost.layer_ms.items()}
    assert gain["a"] == pytest.approx(0.9 * 6.0, rel=0.05)
    assert gain["c"] == pytest.approx(0.0, abs=0.1)


def test_same_observations_give_the_same_json() -> None:
    observed = [(p, prediction(p)) for p in plans(8)]
    first, second = AdditiveCost.fit(observed, EDGES), AdditiveCost.fit(observed, EDGES)
    assert first.model_dump_json() == second.model_dump_json()
    again = AdditiveCost.model_validate_json(first.model_dump_json())
    assert again.ms(plans(9)[-1]) == first.ms(plans(9)[-1])


def test_plans_that_do_not_fit_are_refused_by_name() -> None:
    good = dict.fromkeys(LAYERS, "int8")
    with pytest.raises(UsageError, match="plan 1 has other layers than the first one: z"):
        AdditiveCost.fit([(good, 1.0), ({**good, "z": "int8"}, 1.0)], EDGES)
    with pytest.raises(UsageError, match="edges name layers that the plans do not: z"):
        AdditiveCost.fit([(good, 1.0)], [("a", "z")])
    with pytest.raises(UsageError, match="plan 0 takes 0"):
        AdditiveCost.fit([(good, 0.0)], EDGES)
    with pytest.raises(UsageError, match="without an observed plan"):
        AdditiveCost.fit([], EDGES)
    with pytest.raises(UsageError, match="layer b in int4 \\(known: int8\\)"):
        AdditiveCost.fit([(good, 1.0)], EDGES).ms({**good, "b": "int4"})
