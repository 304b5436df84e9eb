"""From logits to a genotype: the most probable choice of each layer, jointly or by operation first."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import torch
from torch import Tensor

from bitwright.foundation.errors import ConstraintError
from search.quantnas.cost_table import CostTable
from workloads.super_resolution.models.searched import Choice, Genotype, SearchSpace


class Derivation(StrEnum):
    """Which choice counts as the most probable."""

    JOINT = "joint"
    """argmax over pairs of operation and bit width."""
    MARGINAL = "marginal"
    """argmax over operations by their whole probability, then over bit widths of that operation."""


def derive(space: SearchSpace, logits: Mapping[str, Tensor], *, adq: bool = False,
           how: Derivation = Derivation.JOINT) -> Genotype:  # fmt: skip
    """The genotype of `logits` ([operations * bits] by layer name). Of equals, the first."""
    layers = {}
    for site in space.wiring.sites:
        table = logits[site.name].detach().double().view(len(site.operations), len(site.bits))
        if how is Derivation.JOINT:
            chosen, bit = divmod(int(table.flatten().argmax()), len(site.bits))
        else:
            # The softmax's own normalisation is the same for all operations of a layer.
            chosen = int(torch.logsumexp(table, 1).argmax())
            bit = int(table[chosen].argmax())
        layers[site.name] = Choice(site.tokens[chosen], site.bits[bit])
    return Genotype.of(space, layers, adq=adq)


def derive_within(space: SearchSpace, logits: Mapping[str, Tensor], table: CostTable, budget: float, *,
                  adq: bool = False, how: Derivation = Derivation.JOINT) -> tuple[Genotype, int]:  # fmt: skip
    """The most probable genotype found that costs at most `budget`, and how many layers differ from `derive`'s.

    A price of cost is raised (bisection) until the choices with the greatest log probability less price * cost fit.
    ConstraintError where not even the cheapest choices do.
    """
    first = derive(space, logits, adq=adq, how=how)
    if table.of(first) <= budget:
        return first, 0
    unit = max(table.most - table.least, 1e-30)

    def at(price: float) -> Genotype:
        bent = {n: torch.log_softmax(logits[n].detach().double(), 0) - price / unit * c.flatten().to(logits[n].device)
                for n, c in table.costs.items()}  # fmt: skip
        return derive(space, bent, adq=adq)

    low, high = 0.0, 1.0
    while table.of(at(high)) > budget:
        low, high = high, 2 * high
        if high > 1e12:
            raise ConstraintError(f"no network of the space costs at most {budget:g} {table.unit}")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if table.of(at(middle)) <= budget else (middle, high)
    found = at(high)
    return found, sum(found.layers[name] != choice for name, choice in first.layers.items())
