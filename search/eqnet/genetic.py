"""Genetic search of mixed precision under limits: whole populations at once, elitist, repaired instead of rejected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation.errors import ConstraintError, UsageError
from search.eqnet.encoder import Bits
from search.eqnet.genes import GeneMap, Genes
from search.eqnet.repair import Limit, Repair

Fitness = Callable[[Bits], NDArray[np.float64]]
"""Quality of a population, [members], higher is better."""


@dataclass(frozen=True)
class GeneticSettings:
    """Sizes of section 8. `mutation` is the probability of each gene; 0.1 is what the release really runs with."""

    population: int = 100
    generations: int = 500
    parents: int = 25
    mutation: float = 0.1
    kept: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """UsageError for sizes that cannot be."""
        if not 2 <= self.parents <= self.population or self.generations < 1 or not 0 < self.mutation <= 1:
            raise UsageError("a genetic search needs 2 to `population` parents, a generation and a mutation in (0, 1]")


USUAL = GeneticSettings()


@dataclass(frozen=True)
class FoundMembers:
    """The best members, best first: [kept, layers, 2] and their fitness; `history`: best fitness by generation."""

    bits: Bits
    fitness: NDArray[np.float64]
    history: tuple[float, ...]
    candidates: int
    predicted: int


class _Memory:
    """Fitness by genes; what was predicted once is not predicted again."""

    def __init__(self, genes: GeneMap, fitness: Fitness) -> None:
        self.genes, self.fitness = genes, fitness
        self.known: dict[bytes, float] = {}

    def __call__(self, members: Genes) -> NDArray[np.float64]:
        keys = [row.tobytes() for row in members]
        fresh = {key: number for number, key in enumerate(keys) if key not in self.known}
        if fresh:
            values = self.fitness(self.genes.bits(members[list(fresh.values())]))
            self.known.update(zip(fresh, map(float, values), strict=True))
        return np.array([self.known[key] for key in keys])


def evolve(
    genes: GeneMap, fitness: Fitness, limits: Sequence[Limit], settings: GeneticSettings = USUAL
) -> FoundMembers:
    """The fittest members within all limits.

    Each generation keeps the best `parents`, makes half of `population` by mutating them and half by crossing them over
    gene by gene, and repairs what breaks a limit. ConstraintError where the cheapest member breaks one.
    """
    draw = np.random.default_rng(settings.seed)
    repair = Repair(genes, limits, fitness, settings.seed)
    predict = _Memory(genes, fitness)
    members = repair(genes.random(draw, settings.population))
    values = predict(members)
    history, half = [float(values.max())], settings.population // 2
    for _ in range(settings.generations - 1):
        order = _distinct_best(members, values, settings.parents)
        parents, best = members[order], values[order]
        mutants = parents[draw.integers(len(parents), size=half)]
        touched = draw.random(mutants.shape) < settings.mutation
        mutants = np.where(touched, genes.random(draw, half), mutants)
        pairs = draw.integers(len(parents), size=(2, settings.population - half))
        crossed = np.where(draw.random((len(pairs[0]), genes.count)) < 0.5, parents[pairs[0]], parents[pairs[1]])
        children = repair(np.concatenate([mutants, crossed]))
        members = np.concatenate([parents, children])
        values = np.concatenate([best, predict(children)])
        history.append(float(values.max()))
    order = _distinct_best(members, values, settings.kept)
    total = settings.population * settings.generations
    return FoundMembers(genes.bits(members[order]), values[order], tuple(history), total, len(predict.known))


def random_search(
    genes: GeneMap, fitness: Fitness, limits: Sequence[Limit], candidates: int, *, kept: int = 20, seed: int = 0
) -> FoundMembers:
    """The fittest of as many random members, repaired in the same way: what a search has to beat."""
    draw = np.random.default_rng([seed, 1])
    members = Repair(genes, limits, fitness, seed)(genes.random(draw, candidates))
    values = fitness(genes.bits(members))
    order = _distinct_best(members, values, kept)
    return FoundMembers(genes.bits(members[order]), values[order], (float(values.max()),), candidates, candidates)


def _distinct_best(members: Genes, values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Numbers of the best members, no two of them alike; fewer where there are not as many."""
    seen: set[bytes] = set()
    found = []
    for number in np.argsort(-values, kind="stable"):
        key = members[number].tobytes()
        if key not in seen:
            seen.add(key)
            found.append(int(number))
            if len(found) == count:
                break
    return np.array(found, np.int64)


def check_reachable(genes: GeneMap, limits: Sequence[Limit]) -> None:
    """ConstraintError names the first limit that neither the narrowest nor the widest member keeps.

    The widest is the cheaper one where a device emulates narrow widths.
    """
    ends = genes.bits(np.stack([genes.narrowest(), genes.sizes - 1]))
    for limit in limits:
        costs = limit.cost(ends)
        if not (costs <= limit.most).any():
            which = ("narrowest", "widest")[int(costs.argmin())]
            raise ConstraintError(
                f"{limit.name} of {limit.most:.6g} cannot be reached: the {which} network has {costs.min():.6g}"
            )
