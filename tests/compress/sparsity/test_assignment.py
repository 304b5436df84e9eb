"""Per-layer patterns: the dynamic programme against trying everything, and the sensitivities that feed it."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitwright.foundation.errors import ConstraintError, UsageError
from compress.graph import capture, tensor
from compress.nm_pattern import Sparsity
from compress.sparsity import LayerKind, WeightLayout
from compress.sparsity.assignment import Choice, assign
from compress.sparsity.one_shot import ScoreKind, pruned_weight
from compress.sparsity.sensitivity import pruning_losses

PATTERNS = [None, Sparsity.parse("2:4"), Sparsity.parse("1:4"), Sparsity.parse("1:8")]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_best_assignment_is_found(draw: st.DataObject) -> None:
    layers = draw.draw(st.integers(1, 4))
    choices = {}
    for i in range(layers):
        losses = sorted(draw.draw(st.lists(st.integers(0, 9), min_size=4, max_size=4)))
        costs = sorted(draw.draw(st.lists(st.integers(0, 12), min_size=4, max_size=4)), reverse=True)
        choices[str(i)] = [Choice(p, float(q), float(c)) for p, q, c in zip(PATTERNS, losses, costs, strict=True)]
    budget = draw.draw(st.integers(1, 40))
    everything = [c for c in product(*choices.values()) if sum(x.cost for x in c) <= budget]
    if not everything:
        with pytest.raises(ConstraintError, match="more than the budget"):
            assign(choices, budget)
        return
    # Whole costs and a step to each: nothing is lost by rounding.
    found = assign(choices, budget, levels=budget)
    assert sum(c.cost for c in found.values()) <= budget
    assert sum(c.loss for c in found.values()) == min(sum(x.loss for x in c) for c in everything)


def test_ties_go_to_the_denser_pattern_and_budgets_are_kept() -> None:
    same = [Choice(p, 1.0, 0.0) for p in reversed(PATTERNS)]
    assert assign({"a": same}, 1.0)["a"].pattern is None
    costly = [Choice(None, 0.0, 1.0), Choice(Sparsity.parse("2:4"), 1.0, 0.5), Choice(Sparsity.parse("1:4"), 9.0, 0.25)]
    found = assign({"a": costly, "b": costly}, 1.25)
    assert (
        sorted(str(c.pattern) for c in found.values()) == ["1:4", "None"] or sum(c.loss for c in found.values()) == 2.0
    )
    assert sum(c.cost for c in found.values()) <= 1.25
    assert {str(c.pattern) for c in assign({"a": costly, "b": costly}, 0.5).values()} == {"1:4"}
    with pytest.raises(UsageError, match="a choice for each layer"):
        assign({"a": []}, 1.0)


def test_sensitivities_are_the_output_error_of_each_layer_alone() -> None:
    torch.manual_seed(0)
    example = torch.rand(6, 8, 6, 6)
    graph = capture(nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 4, 1, bias=False)), example[:1])
    layout, pattern = WeightLayout(LayerKind.CONV), Sparsity.parse("2:4")
    found = pruning_losses(
        graph, {"1.weight": (layout, [pattern, Sparsity.parse("1:8")])}, example, ScoreKind.MAGNITUDE
    )
    weight, first = tensor(graph, "1.weight"), tensor(graph, "0.weight")
    lost = weight - pruned_weight(weight, pattern, layout)
    error = nn.functional.conv2d(nn.functional.conv2d(example, first), lost).square().mean()
    assert found["1.weight"][pattern] == pytest.approx(float(error), rel=1e-4)
    assert found["1.weight"][Sparsity.parse("1:8")] > found["1.weight"][pattern]
    assert torch.equal(tensor(graph, "1.weight"), weight)
