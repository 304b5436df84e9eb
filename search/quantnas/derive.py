"""From logits to a genotype: the most probable choice of each layer, jointly or by operation first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from bitwright.foundation.errors import ConstraintError
from search.quantnas.assignment import Assignment, Places, Table, joint
from search.quantnas.cost_table import CostTable, groups_of
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
    return _genotype(space, {name: _pick(table, how) for name, table in _tables(space, logits).items()}, adq)


def derive_within(space: SearchSpace, logits: Mapping[str, Tensor], table: CostTable, budget: float, *,
                  adq: bool = False, how: Derivation = Derivation.JOINT) -> tuple[Genotype, int]:  # fmt: skip
    """The most probable genotype found that costs at most `budget`, and how many layers differ from `derive`'s.

    A price of cost is raised (bisection) until the choices with the greatest log probability less price * cost fit.
    What they leave of the budget buys more probable choices, those that gain most first. Layers that share logits
    change together. ConstraintError where not even the cheapest choices found do.
    """
    first = derive(space, logits, adq=adq, how=how)
    if table.of(first) <= budget:
        return first, 0
    likely = _tables(space, logits)
    costs = {name: one.detach().cpu().double().numpy() for name, one in table.costs.items()}
    unit = max(table.most - table.least, 1e-30)
    assignment = Assignment(groups_of(space), table.boundaries)

    def at(price: float) -> Places:
        bent = {name: likely[name] - price / unit * costs[name] for name in likely}
        return assignment.best(bent, price / unit, lambda one: _pick(one, how))

    def cost(places: Places) -> float:
        return sum(float(costs[name][place]) for name, place in places.items()) + assignment.passing(places)

    low, high = 0.0, 1.0
    while cost(at(high)) > budget:
        low, high = high, 2 * high
        if high > 1e12:
            raise ConstraintError(f"no network of the space costs at most {budget:g} {table.unit}")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(at(middle)) <= budget else (middle, high)
    places = at(high)
    while (better := _upgrade(assignment, likely, places, how, lambda one: cost(one) <= budget)) is not None:
        places = better
    found = _genotype(space, places, adq)
    return found, sum(found.layers[name] != choice for name, choice in first.layers.items())


def _upgrade(assignment: Assignment, likely: Mapping[str, Table], places: Places, how: Derivation,
             fits: Callable[[Places], bool]) -> Places | None:  # fmt: skip
    """The choices with the one change that gains most probability among those that fit; None without any."""
    offers = []
    for group in assignment.groups:
        table, old = likely[group[0]], places[group[0]]
        offers += [(_gain(table, old, new, how), group, new) for new in _places(table)]
    for gain, group, new in sorted(offers, key=lambda offer: offer[0], reverse=True):
        if gain <= (0.0, 0.0):
            return None
        changed = places | dict.fromkeys(group, new)
        if fits(changed):
            return changed
    return None


def _gain(table: Table, old: tuple[int, int], new: tuple[int, int], how: Derivation) -> tuple[float, float]:
    """How much more log probability a choice has, in the order in which `how` decides."""
    chosen = float(table[new] - table[old])
    if how is Derivation.JOINT or old[0] == new[0]:
        return chosen, 0.0
    rows = np.logaddexp.reduce(table, axis=1)
    return float(rows[new[0]] - rows[old[0]]), chosen


def _places(table: Table) -> Iterator[tuple[int, int]]:
    return ((int(o), int(b)) for o, b in np.ndindex(*table.shape))


def _tables(space: SearchSpace, logits: Mapping[str, Tensor]) -> dict[str, Table]:
    """Log probabilities, [operations, bits] by layer."""
    return {
        site.name: torch.log_softmax(logits[site.name].detach().cpu().double(), 0)
        .view(len(site.operations), len(site.bits))
        .numpy()
        for site in space.wiring.sites
    }


def _pick(table: Table, how: Derivation) -> tuple[int, int]:
    if how is Derivation.JOINT:
        return joint(table)
    operation = int(np.logaddexp.reduce(table, axis=1).argmax())
    return operation, int(table[operation].argmax())


def _genotype(space: SearchSpace, places: Places, adq: bool) -> Genotype:
    layers = {}
    for site in space.wiring.sites:
        operation, bit = places[site.name]
        layers[site.name] = Choice(site.tokens[operation], site.bits[bit])
    return Genotype.of(space, layers, adq=adq)
