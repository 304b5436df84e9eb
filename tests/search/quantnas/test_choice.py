"""Entropy, its schedule, and the derivation of a genotype."""

from __future__ import annotations

import math

import pytest
import torch

from bitwright.foundation.errors import ConstraintError
from search.quantnas import (
    CostTable,
    Derivation,
    EntropyReduction,
    Sparsity,
    bitops_costs,
    derive,
    derive_within,
    entropy_coefficient,
    sparsity_loss,
)
from search.quantnas.assignment import Boundary
from search.quantnas.entropy import entropy
from workloads.super_resolution.models.searched import Choice, Genotype, SearchSpace, load_space


def test_schedule_golden_values() -> None:
    full = [entropy_coefficient(e, 20, 0, 1.0) for e in range(20)]
    assert full[:5] == [0.0] * 5
    wanted = [0.066, 0.125, 0.184, 0.244, 0.306, 0.369, 0.434, 0.501, 0.568, 0.637, 0.708, 0.779, 0.852, 0.925, 1]
    assert full[5:] == pytest.approx(wanted, abs=6e-4)
    late = [entropy_coefficient(e, 20, 9, 1.0) for e in range(9, 20)]
    wanted = [0, 0, 0.060, 0.143, 0.241, 0.349, 0.467, 0.592, 0.722, 0.859, 1]
    assert late == pytest.approx(wanted, abs=6e-4)
    assert entropy_coefficient(8, 20, 9, 1.0) == 0.0
    assert full[-1] == late[-1] == 1.0


def test_schedule_ends_at_its_value_however_short() -> None:
    for epochs in range(1, 9):
        assert entropy_coefficient(epochs - 1, epochs, 0, 1e-3) == pytest.approx(1e-3)


def test_entropy_is_finite_where_a_probability_underflows() -> None:
    """p * log(p) is NaN there."""
    logits = torch.tensor([0.0, -500.0, 300.0], requires_grad=True)
    value = entropy(logits)
    value.backward()
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(logits.grad).all()
    hard = torch.tensor([0.0, -torch.inf])
    assert float(entropy(hard)) == 0.0


def test_ceiling_of_the_sum_and_the_mean() -> None:
    for name, ceiling in (("basic", 15.8), ("rfdn", 86.3)):
        space = load_space(name)
        sites = (
            {s.shared: s for s in space.wiring.sites} if name == "basic" else {s.name: s for s in space.wiring.sites}
        )
        logits = [torch.zeros(2 * len(s.operations)) for s in sites.values()]
        total = sparsity_loss(logits, Sparsity.ENTROPY, EntropyReduction.SUM)
        assert float(total) == pytest.approx(ceiling, abs=0.06)
        mean = sparsity_loss(logits, Sparsity.ENTROPY, EntropyReduction.MEAN)
        assert float(mean) == pytest.approx(ceiling / len(logits), rel=1e-2)


def test_other_sparsity_terms() -> None:
    logits = [torch.tensor([1.0, -2.0])]
    assert float(sparsity_loss(logits, Sparsity.L1, EntropyReduction.SUM)) == 3.0
    assert float(sparsity_loss(logits, Sparsity.L1_EXP, EntropyReduction.SUM)) == pytest.approx(math.e + math.exp(-2))
    assert float(sparsity_loss(logits, Sparsity.NONE, EntropyReduction.SUM)) == 0.0


def _logits(value: torch.Tensor) -> dict[str, torch.Tensor]:
    space = load_space("rfdn").resized(cells=1)
    made = {s.name: torch.full((2 * len(s.operations),), -7.0) for s in space.wiring.sites}
    made["cells.0.body.0"] = value
    return made


def test_all_negative_logits_still_give_the_largest() -> None:
    """A scan that starts from 0 returns the first operation at the first width."""
    space = load_space("rfdn").resized(cells=1)
    logits = -torch.arange(18, 0, -1).float()
    genotype = derive(space, _logits(logits))
    assert genotype.layers["cells.0.body.0"] == Choice("simple_5x5_grouped_2", 8)


def test_joint_and_marginal_differ_where_mass_is_spread() -> None:
    space = load_space("rfdn").resized(cells=1)
    p = torch.full((9, 2), 1e-6)
    p[1] = torch.tensor([0.31, 0.0001])
    p[2] = torch.tensor([0.30, 0.29])
    logits = p.log().flatten()
    assert derive(space, _logits(logits)).layers["cells.0.body.0"] == Choice("simple_3x3", 4)
    marginal = derive(space, _logits(logits), how=Derivation.MARGINAL)
    assert marginal.layers["cells.0.body.0"] == Choice("simple_5x5", 4)


def test_marginal_derivation_stays_marginal_within_a_budget() -> None:
    """A layer that the budget need not touch keeps the operation with the greatest whole probability."""
    space = load_space("rfdn").resized(cells=1)
    p = torch.full((9, 2), 1e-6)
    p[1] = torch.tensor([0.31, 0.0001])
    p[2] = torch.tensor([0.30, 0.29])
    logits = _logits(p.log().flatten())
    logits["tail.0"] = torch.zeros(12)
    logits["tail.0"][-1] = 0.1
    table = bitops_costs(space)
    dear = derive(space, logits, how=Derivation.MARGINAL)
    budget = 0.9 * table.of(dear)
    found, changed = derive_within(space, logits, table, budget, how=Derivation.MARGINAL)
    assert changed > 0
    assert found.layers["cells.0.body.0"] == dear.layers["cells.0.body.0"] == Choice("simple_5x5", 4)
    assert table.of(found) <= budget


def test_what_a_budget_leaves_is_spent_on_the_most_probable_choices() -> None:
    """Layers that are alike all change at one price, though the budget holds with half of them unchanged."""
    space = load_space("rfdn").resized(cells=2)
    table = bitops_costs(space)
    logits = {s.name: torch.linspace(0, 2, len(s.operations) * 2) for s in space.wiring.sites}
    dear = derive(space, logits)
    budget = 0.5 * (table.of(dear) + table.least)
    found, changed = derive_within(space, logits, table, budget)
    assert 0.98 * budget < table.of(found) <= budget
    assert 0 < changed < len(space.wiring.sites)
    for site in space.wiring.sites:
        places = [(o, b) for o in range(len(site.operations)) for b in range(2)]
        at = (site.tokens.index(found.layers[site.name].operation), space.bits.index(found.layers[site.name].bits))
        for o, b in places[places.index(at) + 1 :]:
            better = {**found.layers, site.name: Choice(site.tokens[o], space.bits[b])}
            assert table.of(Genotype.of(space, better, adq=False)) > budget


def test_cells_that_share_logits_change_together() -> None:
    space = load_space("basic").resized(width=12)
    table = bitops_costs(space)
    torch.manual_seed(0)
    shared = {s.shared: torch.randn(2 * len(s.operations)) for s in space.wiring.sites}
    logits = {s.name: shared[s.shared] for s in space.wiring.sites}
    for share in (0.3, 0.5, 0.7, 0.9):
        found, _ = derive_within(space, logits, table, share * table.of(derive(space, logits)))
        assert len({found.layers[f"cells.{cell}.body.0"] for cell in range(3)}) == 1


def _chain(first: list[float], last: list[float], crossing: float) -> CostTable:
    """Two layers of one operation in 4 or 8 bits, with a price for a change of width between them."""
    space = SearchSpace.model_validate({
        "name": "chain", "scale": 2, "width": 4,
        "layers": {"first": {"out": "width", "candidates": ["simple_3x3"]},
                   "last": {"out": "colours*scale*scale", "candidates": ["simple_3x3"]}},
        "network": ["a = first(x)", "b = last(a)", "y = shuffle(b)"],
    })  # fmt: skip
    costs = {"first": torch.tensor([first], dtype=torch.float64), "last": torch.tensor([last], dtype=torch.float64)}
    between = torch.tensor([[0.0, crossing], [crossing, 0.0]], dtype=torch.float64)
    return CostTable("ms", "test", space, costs, boundaries=(Boundary("first", "last", between),))


def test_a_budget_that_needs_one_width_throughout_is_met() -> None:
    """Each layer's cheapest width is another one, and the change between them costs more than both."""
    table = _chain([1.0, 1.1], [1.2, 1.0], 10.0)
    assert table.least == pytest.approx(2.1)
    logits = {"first": torch.tensor([2.0, 0.0]), "last": torch.tensor([0.0, 2.0])}
    found, changed = derive_within(table.space, logits, table, 2.15)
    assert [choice.bits for choice in found.layers.values()] == [8, 8]
    assert changed == 1
    with pytest.raises(ConstraintError, match="no network"):
        derive_within(table.space, logits, table, 2.05)


def test_the_price_of_a_change_decides_between_networks_within_a_budget() -> None:
    table = _chain([1.0, 3.0], [1.0, 3.0], 0.5)
    logits = {"first": torch.tensor([0.0, 2.0]), "last": torch.tensor([0.0, 1.0])}
    for budget, widths in ((6.0, [8, 8]), (4.6, [8, 4]), (4.4, [4, 4])):
        found, _ = derive_within(table.space, logits, table, budget)
        assert [choice.bits for choice in found.layers.values()] == widths
