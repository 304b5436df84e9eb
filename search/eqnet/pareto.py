"""A front of quality against cost by NSGA-II, in place of a row of single-objective searches.

The algorithm is Optuna's, by way of `search.sensitivity.sampler`: seeded, resumable from a journal.
It asks for one member at a time, so that starts from genetic searches at some limits do most of the climbing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search.eqnet.encoder import Bits
from search.eqnet.genes import GeneMap
from search.eqnet.genetic import USUAL, Fitness, GeneticSettings, check_reachable, evolve
from search.eqnet.repair import Cost, Limit
from search.sensitivity.sampler import Sampler, sample_assignments


@dataclass(frozen=True)
class FrontMember:
    """A member that no other one found beats in both cost and predicted quality. `bits`: [layers, 2]."""

    bits: Bits
    cost: float
    quality: float


def front(
    genes: GeneMap, fitness: Fitness, cost: Cost, *, limits: Sequence[float] = (), trials: int = 500, seed: int = 0,
    settings: GeneticSettings = USUAL, journal: Path | None = None, name: str = "cost",
) -> list[FrontMember]:  # fmt: skip
    """The members found, by ascending cost. `limits`: budgets at which a genetic search gives a start."""
    if not genes.count:
        only = genes.bits(genes.narrowest()[None])
        return [FrontMember(only[0], float(cost(only)[0]), float(fitness(only)[0]))]
    starts = [genes.narrowest(), genes.sizes - 1]
    for most in limits:
        limit = Limit(name, cost, most)
        check_reachable(genes, [limit])
        starts += list(genes.genes(evolve(genes, fitness, [limit], settings).bits[:3]))
    allowed = {f"{kind}{layer}": list(map(str, widths)) for (layer, kind), widths in zip(genes.keys, genes.widths,
                                                                                       strict=True)}  # fmt: skip

    def bits(assignment: Mapping[str, str]) -> Bits:
        places = [widths.index(assignment[key]) for key, widths in allowed.items()]
        return genes.bits(np.array([places]))

    found = sample_assignments(
        allowed,
        lambda a: float(cost(bits(a))[0]),
        lambda a: -float(fitness(bits(a))[0]),
        trials=max(trials, len(starts)),
        seed=seed,
        sampler=Sampler.NSGA2,
        starts=[
            {key: widths[int(place)] for (key, widths), place in zip(allowed.items(), start, strict=True)}
            for start in starts
        ],
        journal=journal,
    )  # fmt: skip
    members = [bits(a) for a in found]
    return [FrontMember(b[0], float(cost(b)[0]), float(fitness(b)[0])) for b in members]
