"""Two libraries' NSGA-II on one search for a front: part of `python -m benchmarks.eqnet_search`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from search.eqnet.encoder import Bits
from search.eqnet.genes import GeneMap
from search.eqnet.genetic import Fitness, GeneticSettings, evolve
from search.eqnet.pareto import front
from search.eqnet.repair import Cost, Limit
from search.sensitivity import Sampler, sample_assignments

Result = TypeVar("Result")
STARTED_AT = 4
"""Costs at which a genetic search gives both libraries starts."""


@dataclass(frozen=True)
class Front:
    """What a library found among `candidates`; `seconds`: CPU and wall, the genetic searches for the starts included.

    `hypervolume`: of cost and lost quality, each from 0 to 1 between the narrowest and the widest network, up to 1.1.
    """

    library: str
    candidates: int
    seconds: tuple[float, float]
    members: int
    hypervolume: float

    def cells(self) -> list[str]:
        """A row of the table."""
        times = [f"{second:.2f}" for second in self.seconds]
        return [f"front by {self.library}", str(self.candidates), *times, f"hypervolume {self.hypervolume:.3f}"]


def timed(work: Callable[[], Result]) -> tuple[Result, tuple[float, float]]:
    """What `work` returns, with its CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, (time.process_time() - cpu, time.perf_counter() - wall)


def fronts(
    genes: GeneMap,
    predict: Fitness,
    cost: Cost,
    settings: GeneticSettings,
    *,
    pymoo: Sequence[int],
    optuna: Sequence[int],
) -> Iterator[Front]:
    """The front of each library for each number of candidates, all from the same starts."""
    ends = genes.bits(np.stack([genes.narrowest(), genes.sizes - 1]))
    costs, qualities = cost(ends), predict(ends)
    limits = [float(x) for x in np.linspace(costs[0], costs[1], STARTED_AT + 2)[1:-1]]
    short = dataclasses.replace(settings, generations=max(1, settings.generations // 5))

    def told(library: str, candidates: int, seconds: tuple[float, float], found: Bits) -> Front:
        scaled = (cost(found) - costs[0]) / np.ptp(costs), (qualities[1] - predict(found)) / np.ptp(qualities)
        return Front(library, candidates, seconds, len(found), _hypervolume(np.stack(scaled, 1)))

    def by_pymoo(count: int) -> Bits:
        found = front(genes, predict, cost, limits=limits, candidates=count, seed=settings.seed, settings=short)
        return np.stack([member.bits for member in found])

    for count in pymoo:
        found, seconds = timed(partial(by_pymoo, count))
        yield told("pymoo", count, seconds, found)

    allowed = {f"{layer}-{kind}": [str(b) for b in widths]
               for (layer, kind), widths in zip(genes.keys, genes.widths, strict=True)}  # fmt: skip

    def bits(plan: Mapping[str, str]) -> Bits:
        return genes.bits(np.array([[widths.index(plan[key]) for key, widths in allowed.items()]]))

    def by_optuna(count: int) -> Bits:
        starts = [genes.narrowest(), genes.sizes - 1]
        for limit in limits:
            starts += list(genes.genes(evolve(genes, predict, [Limit("cost", cost, limit)], short).bits[:3]))
        plans = sample_assignments(
            allowed,
            lambda plan: float(cost(bits(plan))[0]),
            lambda plan: -float(predict(bits(plan))[0]),
            trials=count,
            seed=settings.seed,
            sampler=Sampler.NSGA2,
            starts=[
                {key: widths[int(place)] for (key, widths), place in zip(allowed.items(), start, strict=True)}
                for start in starts
            ],
        )
        return np.concatenate([bits(plan) for plan in plans])

    for count in optuna:
        found, seconds = timed(partial(by_optuna, count))
        yield told("Optuna", count, seconds, found)


def _hypervolume(points: NDArray[np.float64]) -> float:
    from pymoo.indicators.hv import HV

    return float(HV(ref_point=np.array([1.1, 1.1]))(points))
