"""A front of quality against cost by NSGA-II, in place of a row of single-objective searches.

The algorithm is pymoo's, which takes a whole population at once, as predictors do: `benchmarks/results/eqnet_search`
has it beside Optuna's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import track
from search.eqnet.encoder import Bits
from search.eqnet.genes import GeneMap, Genes
from search.eqnet.genetic import USUAL, Fitness, GeneticSettings, check_reachable, evolve
from search.eqnet.repair import Cost, Limit

POPULATION = 100
SPREAD = 3.0
"""Distribution index of polynomial mutation: widths move by one or two places at most times."""


@dataclass(frozen=True)
class FrontMember:
    """A member that no other one found beats in both cost and predicted quality. `bits`: [layers, 2]."""

    bits: Bits
    cost: float
    quality: float


def front(
    genes: GeneMap, fitness: Fitness, cost: Cost, *, limits: Sequence[float] = (), candidates: int = 20_000,
    seed: int = 0, settings: GeneticSettings = USUAL, name: str = "cost",
) -> list[FrontMember]:  # fmt: skip
    """The members found among as many candidates, by ascending cost; the same seed gives the same ones.

    `limits`: budgets at which a genetic search gives starts.
    """
    if candidates < 1:
        raise UsageError("the search for a front needs at least one candidate")
    if not genes.count:
        only = genes.bits(genes.narrowest()[None])
        return [FrontMember(only[0], float(cost(only)[0]), float(fitness(only)[0]))]
    starts = [genes.narrowest()[None], genes.sizes[None] - 1]
    for most in limits:
        limit = Limit(name, cost, most)
        check_reachable(genes, [limit])
        starts.append(genes.genes(evolve(genes, fitness, [limit], settings).bits[:3]))
    found = genes.bits(_evolved(genes, fitness, cost, np.concatenate(starts), candidates, seed))
    costs, qualities = cost(found), fitness(found)
    order = np.lexsort((-qualities, costs))
    members: list[FrontMember] = []
    for one in order:
        if not members or qualities[one] > members[-1].quality:
            members.append(FrontMember(found[one], float(costs[one]), float(qualities[one])))
    return members


def _evolved(genes: GeneMap, fitness: Fitness, cost: Cost, starts: Genes, candidates: int, seed: int) -> Genes:
    """The genes of the last population's front."""
    from pymoo.config import Config

    # Printed to stdout, where a result may be written as JSON.
    Config.warnings["not_compiled"] = False
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair

    class Plans(Problem):  # type: ignore[misc]
        """Cost and lost quality of members."""

        def __init__(self) -> None:
            super().__init__(n_var=genes.count, n_obj=2, xl=np.zeros(genes.count), xu=genes.sizes - 1, vtype=int)

        def _evaluate(self, x: Genes, out: dict[str, np.ndarray], *_: object, **__: object) -> None:
            members = genes.bits(x.astype(np.int64))
            out["F"] = np.stack([cost(members), -fitness(members)], 1)

    size = max(min(POPULATION, candidates), len(starts))
    first = np.concatenate([starts, genes.random(np.random.default_rng(seed), size - len(starts))])
    algorithm = NSGA2(
        pop_size=size,
        sampling=first,
        crossover=UniformCrossover(),
        mutation=PM(prob=1.0, eta=SPREAD, vtype=float, repair=RoundingRepair()),
    )
    generations = max(1, round(candidates / size))
    algorithm.setup(Plans(), termination=("n_gen", generations), seed=seed, verbose=False)
    for _ in track(range(generations), "searching for a front"):
        if not algorithm.has_next():
            break
        algorithm.next()
    return np.atleast_2d(algorithm.result().X).astype(np.int64)
