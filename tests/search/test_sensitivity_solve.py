"""Exact solution, front, refit and sampling on small instances whose answers are known by brute force."""

from __future__ import annotations

import itertools
import random

import pytest

from bitwright.foundation.errors import ConstraintError, UsageError
from search.sensitivity.cost import Crossing, SeparableCost
from search.sensitivity.front import INTERACTIONS, sweep
from search.sensitivity.quality import Interaction, QualityModel
from search.sensitivity.refit import Measured, refit_cost, refit_quality
from search.sensitivity.sampler import Sampler, sample_assignments
from search.sensitivity.solve import Program

LAYERS = ("a.1", "a.2", "b.1", "b.2", "b.3", "c")
PRECISIONS = ("int4", "int8", "fp32")
ALLOWED = {name: PRECISIONS if name != "c" else ("int8", "fp32") for name in LAYERS}
OF_TWO = dict.fromkeys(LAYERS, ("int8", "fp32"))


def instance(seed: int, negative: bool = True) -> tuple[SeparableCost, QualityModel]:
    r = random.Random(seed)
    layer_ms = {n: {"int4": r.uniform(0.2, 0.6), "int8": r.uniform(0.5, 1), "fp32": r.uniform(1, 4)} for n in LAYERS}
    low = -0.3 if negative else 0.0
    crossings = tuple(
        Crossing(
            producer=a,
            consumer=b,
            ms={p: {q: r.uniform(low, 0.8) for q in PRECISIONS if p != q} for p in PRECISIONS},
        )
        for a, b in [*itertools.pairwise(LAYERS), ("a.1", "b.3")]
    )
    error = {n: {"int4": r.uniform(2, 9), "int8": r.uniform(0.1, 1), "fp32": 0.0} for n in LAYERS}
    pairs = tuple(
        Interaction(first=(a, p), second=(b, q), error=r.uniform(-0.3, 0.3))
        for a, b in itertools.combinations(LAYERS, 2)
        for p in ("int4", "int8")
        for q in ("int4", "int8")
    )
    cost = SeparableCost(constant_ms=0.7, layer_ms=layer_ms, boundaries=crossings, source="test")
    return cost, QualityModel(layer_error=error, interactions=pairs)


def everything(allowed=ALLOWED) -> list[dict[str, str]]:
    return [dict(zip(allowed, chosen, strict=True)) for chosen in itertools.product(*allowed.values())]


def raw_error(quality: QualityModel, assignment: dict[str, str]) -> float:
    return sum(quality.layer_share(assignment).values())


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("allowed", [ALLOWED, OF_TWO], ids=["three", "two"])
def test_the_program_finds_the_optimum_of_brute_force_at_every_budget(seed, allowed):
    cost, quality = instance(seed)
    program = Program(allowed, cost, quality, interactions=quality.strongest(INTERACTIONS, allowed))
    plans = [(cost.ms(a), raw_error(quality, a)) for a in everything(allowed)]
    fastest = min(ms for ms, _ in plans)
    assert cost.ms(program.fastest().assignment) == pytest.approx(fastest, abs=1e-4)
    for budget in (fastest + 0.01, 1.3 * fastest, 2 * fastest, 3 * fastest, 30.0):
        found = program.best(budget).assignment
        assert cost.ms(found) <= budget + 1e-6
        assert raw_error(quality, found) == pytest.approx(min(e for ms, e in plans if ms <= budget), abs=1e-3)
    limit = 3.0
    found = program.cheapest(limit).assignment
    assert raw_error(quality, found) <= limit + 1e-6
    assert cost.ms(found) == pytest.approx(min(ms for ms, e in plans if e <= limit), abs=1e-3)


def test_a_budget_below_the_fastest_plan_is_an_unreachable_constraint():
    cost, quality = instance(0)
    program = Program(ALLOWED, cost, quality)
    with pytest.raises(ConstraintError, match="budget"):
        program.best(0.1)
    with pytest.raises(ConstraintError, match=r"0\.1"):
        sweep(program, [0.1])


def test_boundary_costs_change_the_choice():
    layers = {n: {"int8": 1.0, "fp32": 2.0} for n in ("x", "y", "z")}
    quality = QualityModel(layer_error={n: {"int8": e, "fp32": 0.0} for n, e in (("x", 1), ("y", 5), ("z", 4))})
    allowed = dict.fromkeys(layers, ("int8", "fp32"))
    bare = SeparableCost(constant_ms=0, layer_ms=layers, source="test")
    assert Program(allowed, bare, quality).best(4.0).assignment == {"x": "int8", "y": "fp32", "z": "int8"}
    crossing = {"int8": {"fp32": 0.6}, "fp32": {"int8": 0.6}}
    ends = (("x", "y"), ("y", "z"))
    costly = bare.model_copy(
        update={"boundaries": tuple(Crossing(producer=a, consumer=b, ms=crossing) for a, b in ends)}
    )
    assert Program(allowed, costly, quality).best(4.7).assignment == {"x": "int8", "y": "int8", "z": "fp32"}


def test_layers_that_share_a_weight_stay_together():
    cost, quality = instance(5)
    program = Program(ALLOWED, cost, quality, ties=[("a.1", "b.2")])
    for budget in (4.0, 5.0, 7.0):
        found = program.best(budget).assignment
        assert found["a.1"] == found["b.2"]
        possible = [a for a in everything() if a["a.1"] == a["b.2"] and cost.ms(a) <= budget]
        wanted = min(sum(quality.layer_error[n][p] for n, p in a.items()) for a in possible)
        assert sum(quality.layer_error[n][p] for n, p in found.items()) == pytest.approx(wanted, abs=1e-3)


def test_a_layer_without_a_cost_is_named():
    cost, quality = instance(0)
    with pytest.raises(UsageError, match=r"layer c in int4"):
        Program({**ALLOWED, "d": ("int8",)} | {"c": ("int4",)}, SeparableCost(
            constant_ms=0, layer_ms=cost.layer_ms | {"c": {"int8": 1.0}}, source="test"), quality)  # fmt: skip


def test_refit_recovers_a_planted_bias_of_cost_and_quality():
    cost, quality = instance(7, negative=False)
    cost = cost.model_copy(update={"boundaries": ()})
    blocks = {n: n[0] for n in LAYERS}
    slow = {("b", "int8"): 1.6, ("a", "fp32"): 0.8}
    times = {n: {p: ms * slow.get((blocks[n], p), 1.0) for p, ms in row.items()} for n, row in cost.layer_ms.items()}
    truth = SeparableCost(constant_ms=cost.constant_ms, layer_ms=times, source="truth")
    plain = QualityModel(layer_error=quality.layer_error)
    errors = {n: {p: e * (1 + n.startswith("b")) for p, e in row.items()} for n, row in plain.layer_error.items()}
    worse = QualityModel(layer_error=errors)
    largest = max(worse.drop(a) for a in everything())
    plans = random.Random(0).sample(everything(), 60)
    seen = [Measured(a, truth.ms(a), worse.error(a)) for a in plans[:30]]
    better, sharper = refit_cost(cost, blocks, seen), refit_quality(plain, blocks, seen)
    assert better.layer_ms["b.2"]["int8"] == pytest.approx(truth.layer_ms["b.2"]["int8"], rel=0.05)
    assert sharper.layer_error["b.2"]["int4"] == pytest.approx(worse.layer_error["b.2"]["int4"], rel=0.1)
    for a in plans[30:]:
        assert better.ms(a) == pytest.approx(truth.ms(a), rel=0.02)
        assert sharper.drop(a) == pytest.approx(worse.drop(a), abs=0.02 * largest)
    assert better.source.endswith("refitted")


def test_refit_takes_a_common_factor_from_one_measurement():
    cost, _ = instance(8)
    a = dict.fromkeys(LAYERS, "int8")
    better = refit_cost(cost, dict.fromkeys(LAYERS, "all"), [Measured(a, 1.5 * cost.ms(a))])
    assert better.ms(a) == pytest.approx(1.5 * cost.ms(a), rel=0.01)
    assert refit_cost(cost, dict.fromkeys(LAYERS, "all"), []) == cost


@pytest.mark.parametrize("sampler", list(Sampler))
def test_sampling_finds_a_front_close_to_brute_force_and_repeats_itself(sampler):
    cost, quality = instance(3)

    def odd_cost(a):  # not a sum over layers
        return cost.ms(a) * (1.3 if len(set(a.values())) == 3 else 1.0)

    allowed = dict.fromkeys(LAYERS, ("int8", "fp32"))
    found, again = (
        sample_assignments(allowed, odd_cost, quality.drop, trials=120, seed=1, sampler=sampler, moves=[("b.1", "b.2")])
        for _ in range(2)
    )
    assert found == again
    assert all(a["b.1"] == a["b.2"] for a in found)
    costs, drops = [odd_cost(a) for a in found], [quality.drop(a) for a in found]
    assert costs == sorted(costs)
    assert drops == sorted(drops, reverse=True)
    possible = [a for a in everything(allowed) if a["b.1"] == a["b.2"]]
    assert min(costs) == pytest.approx(min(map(odd_cost, possible)))


def test_sampling_goes_on_from_its_journal(tmp_path):
    cost, quality = instance(3)
    calls = []

    def counted(a):
        calls.append(1)
        return cost.ms(a)

    allowed = dict.fromkeys(LAYERS, ("int8", "fp32"))
    for trials in (10, 25):
        sample_assignments(allowed, counted, quality.drop, trials=trials, journal=tmp_path / "journal.log")
    assert len(calls) == 25
