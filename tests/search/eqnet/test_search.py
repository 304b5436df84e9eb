"""The search over configurations: limits, repair, fronts, verification."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from numpy.typing import NDArray

from bitwright.foundation.errors import ConstraintError, UsageError
from search.eqnet.accounting import latency
from search.eqnet.encoder import Bits, bits_of, configuration_of
from search.eqnet.genes import GeneMap
from search.eqnet.genetic import GeneticSettings, check_reachable, evolve, random_search
from search.eqnet.pareto import front
from search.eqnet.repair import Limit, Repair
from search.eqnet.space import ElasticSpace
from search.eqnet.verification import verify
from search.sensitivity.cost import Crossing, SeparableCost
from tests.search.eqnet.toy import ACCOUNTING, FORM, SPACE, evaluate_toy, truth

QUICK = GeneticSettings(generations=60)
GENES = GeneMap(SPACE)


def _limits() -> list[Limit]:
    return [Limit.of(ACCOUNTING.average_weight_bits(), 4.0), Limit.of(ACCOUNTING.bitops(), 30e9)]


def test_every_member_keeps_every_limit_and_the_best_never_falls() -> None:
    asked: list[Bits] = []

    def fitness(bits: Bits) -> NDArray[np.float64]:
        asked.append(bits)
        return truth(bits)

    found = evolve(GENES, fitness, _limits(), QUICK)
    assert list(found.history) == sorted(found.history)
    assert found.history[-1] > found.history[0]
    # The first call is that of the repair's own table of losses.
    for bits in (*asked[2:], found.bits):
        for limit in _limits():
            assert (limit.cost(bits) <= limit.most * (1 + 1e-9)).all()
    assert found.candidates == 6000
    assert found.predicted == sum(len(b) for b in asked[2:]) < 6000
    assert len(found.bits) == 20
    assert len({b.tobytes() for b in found.bits}) == 20
    assert np.array_equal(found.fitness, np.sort(truth(found.bits))[::-1])
    again = evolve(GENES, truth, _limits(), QUICK)
    assert np.array_equal(again.bits, found.bits)
    assert (found.bits[:, [0, -1]] == 8).all()


def test_search_beats_random_search_at_equal_budget_and_uniform_widths_at_equal_cost() -> None:
    uniform = bits_of([SPACE.uniform(4, FORM)])
    limits = [Limit.of(ACCOUNTING.bitops(), float(ACCOUNTING.bitops()(uniform)[0]))]
    found = evolve(GENES, truth, limits, QUICK)
    by_chance = random_search(GENES, truth, limits, found.candidates)
    assert found.fitness[0] > by_chance.fitness[0] > truth(uniform)[0]


def test_a_limit_may_be_any_callable_and_one_that_cannot_be_kept_is_told() -> None:
    def squares(bits: Bits) -> NDArray[np.float64]:
        return (bits[:, 1:-1].astype(np.float64) ** 2).mean((1, 2))

    found = evolve(GENES, truth, [Limit("squares", squares, 16.0)], GeneticSettings(population=20, generations=5,
                                                                                       parents=5))  # fmt: skip
    assert (squares(found.bits) <= 16.0 + 1e-9).all()
    assert squares(found.bits).max() > 15.0
    tight = [Limit.of(ACCOUNTING.average_weight_bits(), 1.5)]
    with pytest.raises(ConstraintError, match=r"average weight bits of 1\.5 cannot be reached: .* has 2"):
        check_reachable(GENES, tight)
    with pytest.raises(ConstraintError, match="cannot be reached"):
        Repair(GENES, tight, truth, 0)(GENES.random(np.random.default_rng(0), 3))
    with pytest.raises(UsageError, match="parents"):
        GeneticSettings(parents=1)
    assert GeneticSettings().mutation == 0.1


def test_repair_narrows_where_it_costs_least() -> None:
    member = np.tile(GENES.sizes - 1, (1, 1))
    limit = Limit.of(ACCOUNTING.average_weight_bits(), 7.0)
    repaired = GENES.bits(Repair(GENES, [limit], truth, 0)(member))
    before = GENES.bits(member)
    assert float(limit.cost(repaired)[0]) <= 7.0
    lost = float((truth(before) - truth(repaired))[0])
    uniform = bits_of([SPACE.uniform(7, FORM)])
    assert 0 < lost < float((truth(before) - truth(uniform))[0])
    assert (repaired[0, :, 1] == 8).all()


def test_a_member_that_narrowing_makes_dearer_becomes_the_widest() -> None:
    """Narrow widths that are emulated save nothing of themselves and cost a conversion where they meet wide ones."""
    names = {"int8": 1.0, "w4a8": 1.0}
    crossings = tuple(
        Crossing(producer=a, consumer=b, ms={"int8": {"w4a8": 0.1}, "w4a8": {"int8": 0.1}})
        for a, b in itertools.pairwise(SPACE.names)
    )
    cost = SeparableCost(
        constant_ms=0.0, layer_ms=dict.fromkeys(SPACE.names, names), boundaries=crossings, source="toy"
    )
    made = latency(cost, SPACE, cost.source)
    genes = GeneMap(SPACE, dict.fromkeys(SPACE.names[1:-1], ((4, 8), (8,))))
    widest = genes.bits((genes.sizes - 1)[None])
    limit = Limit.of(made, float(made(widest)[0]))
    members = genes.random(np.random.default_rng(0), 6)
    assert (made(genes.bits(members)) > limit.most).all()
    repaired = Repair(genes, [limit], truth, 0)(members)
    assert np.array_equal(genes.bits(repaired), np.repeat(widest, 6, 0))
    best = evolve(genes, truth, [limit], GeneticSettings(population=20, generations=3, parents=5))
    assert np.array_equal(best.bits[0], widest[0])


def test_ties_and_what_a_device_allows_decide_the_genes() -> None:
    layers = list(SPACE.layers[:4])
    layers[2] = layers[2].model_copy(update={"source": layers[1].source, "pinned": False})
    space = ElasticSpace(layers=tuple(layers))
    genes = GeneMap(space)
    assert genes.count == 5
    drawn = genes.bits(genes.random(np.random.default_rng(0), 40))
    assert (drawn[:, 1, 1] == drawn[:, 2, 1]).all()
    assert not (drawn[:, 1, 0] == drawn[:, 2, 0]).all()
    assert np.array_equal(genes.bits(genes.genes(drawn)), drawn)
    narrow = GeneMap(space, dict.fromkeys(space.names, ((4, 8), (8,))))
    assert narrow.widths == [(4, 8)] * 3
    assert (narrow.bits(narrow.narrowest()[None])[0, 1:, 1] == 8).all()
    with pytest.raises(UsageError, match="no width is left for the weights"):
        GeneMap(space, {space.names[0]: ((4,), (8,))})


def test_latency_of_a_device_is_a_limit_with_its_crossings() -> None:
    names = {"int8": 1.0, "int4": 0.5, "w4a8": 0.8}
    edge = Crossing(producer="layer1", consumer="layer2", ms={"int8": {"int4": 5.0}})
    cost = SeparableCost(constant_ms=2.0, layer_ms=dict.fromkeys(SPACE.names, names), boundaries=(edge,), source="toy")
    made = latency(cost, SPACE, cost.source)
    bits = bits_of([SPACE.uniform(8, FORM)] * 3)
    bits[1, 1, 0] = 4
    bits[2, 2] = 4
    assert made(bits) == pytest.approx([23.0, 22.8, 22.5 + 5.0])
    genes = GeneMap(SPACE, dict.fromkeys(SPACE.names[1:-1], ((4, 8), (8,))))
    found = evolve(genes, truth, [Limit.of(made, 21.0)], GeneticSettings(population=20, generations=10, parents=5))
    assert (made(found.bits) <= 21.0 + 1e-9).all()
    assert np.isnan(made(bits_of([SPACE.uniform(3, FORM)]))[0])
    with pytest.raises(UsageError, match="no cost is known for layer layer0"):
        latency(SeparableCost(constant_ms=0.0, layer_ms={}, source="none"), SPACE, "none")


def test_a_front_has_no_member_that_another_beats() -> None:
    cost = ACCOUNTING.bitops()
    quick = GeneticSettings(population=20, generations=15, parents=5)
    found = front(GENES, truth, cost, limits=(20e9, 40e9), candidates=500, settings=quick)
    assert [m.cost for m in found] == sorted(m.cost for m in found)
    assert [m.quality for m in found] == sorted(m.quality for m in found)
    assert len(found) >= 3
    assert found[0].bits[1:-1].max() == 2
    assert found[-1].bits.min() == 8
    for member in found:
        assert float(cost(member.bits[None])[0]) == member.cost
    again = front(GENES, truth, cost, limits=(20e9, 40e9), candidates=500, settings=quick)
    assert [m.cost for m in again] == [m.cost for m in found]
    # A member of a random search that is nowhere behind the front would be one that the search had missed.
    chance = GENES.bits(GENES.random(np.random.default_rng(9), 500))
    for price, quality in zip(cost(chance), truth(chance), strict=True):
        assert any(m.cost <= price and m.quality >= quality for m in found)
    narrow = GeneMap(SPACE, {**dict.fromkeys(SPACE.names, ((8,), (8,))), SPACE.names[2]: ((4, 8), (8,))})
    assert len(front(narrow, truth, cost, candidates=300)) == 2
    with pytest.raises(UsageError, match="at least one candidate"):
        front(GENES, truth, cost, candidates=0)
    one = GeneMap(SPACE, dict.fromkeys(SPACE.names, ((8,), (8,))))
    assert [m.bits.min() for m in front(one, truth, cost)] == [8]


def test_what_was_found_is_evaluated_and_the_truly_best_comes_first() -> None:
    found = evolve(GENES, lambda bits: -truth(bits), [], GeneticSettings(population=20, generations=3, parents=5))
    pairs = [(configuration_of(b, FORM), float(f)) for b, f in zip(found.bits, found.fitness, strict=True)]
    checked = verify(pairs, evaluate_toy, 10)
    assert len(checked) == 10
    assert [v.true for v in checked] == sorted((v.true for v in checked), reverse=True)
    assert checked[0].true == max(evaluate_toy(c) for c, _ in pairs[:10])
    assert json.loads(json.dumps(checked[0].configuration.numbers)) == [
        list(n) for n in checked[0].configuration.numbers
    ]
