"""A pattern for each layer: the smallest sum of losses within a budget, by dynamic programming over quantised cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation.errors import ConstraintError, UsageError
from compress.nm_pattern import Sparsity

LEVELS = 4096
"""Steps that a budget is divided into."""


@dataclass(frozen=True)
class Choice:
    """What a layer may become: its pattern (None: dense), the loss that it brings and what it costs, both >= 0."""

    pattern: Sparsity | None
    loss: float
    cost: float

    @property
    def density(self) -> float:
        """Share of weights that is kept."""
        return 1.0 if self.pattern is None else self.pattern.density


def assign(choices: Mapping[str, Sequence[Choice]], budget: float, levels: int = LEVELS) -> dict[str, Choice]:
    """One choice for each layer with the smallest total loss within `budget`; ties go to the denser.

    Costs are rounded up to budget / `levels`, so that the budget is kept and up to one step a layer may be left unused.
    ConstraintError where even the cheapest choices exceed the budget.
    """
    if budget <= 0 or any(not options for options in choices.values()):
        raise UsageError("an assignment needs a budget above 0 and a choice for each layer")
    least = {name: min(options, key=lambda c: (c.cost, c.loss)) for name, options in choices.items()}
    total = sum(choice.cost for choice in least.values())
    if total > budget * (1 + 1e-12):
        raise ConstraintError(f"the sparsest patterns cost {total:g}, more than the budget of {budget:g}")
    best = np.zeros(levels + 1)
    picks: list[NDArray[np.int64]] = []
    ordered = {name: sorted(options, key=lambda c: -c.density) for name, options in choices.items()}
    for options in ordered.values():
        units = [int(np.ceil(c.cost / budget * levels - 1e-9)) for c in options]
        layer, pick = np.full(levels + 1, np.inf), np.full(levels + 1, -1)
        for index, (choice, unit) in enumerate(zip(options, units, strict=True)):
            if unit > levels:
                continue
            trial = np.full(levels + 1, np.inf)
            trial[unit:] = best[: levels + 1 - unit] + choice.loss
            better = trial < layer
            layer[better], pick[better] = trial[better], index
        best = layer
        picks.append(pick)
    if not np.isfinite(best[levels]):
        # Feasible, but not by whole steps.
        return least
    left, found = levels, {}
    for (name, options), pick in zip(reversed(ordered.items()), reversed(picks), strict=True):
        chosen = options[int(pick[left])]
        found[name] = chosen
        left -= int(np.ceil(chosen.cost / budget * levels - 1e-9))
    return {name: found[name] for name in choices}
