"""The search for one device: its front, and the plan that the best true quality chooses from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from search.eqnet.accounting import LayerCosts
from search.eqnet.devices import DeviceChoice
from search.eqnet.encoder import bits_of, configuration_of
from search.eqnet.genes import GeneMap
from search.eqnet.genetic import Fitness, GeneticSettings, check_reachable, evolve
from search.eqnet.pareto import FrontMember, front
from search.eqnet.predictor import Predictor
from search.eqnet.repair import Limit
from search.eqnet.samples import Evaluate
from search.eqnet.space import ElasticSpace
from search.eqnet.verification import Verified, verify


@dataclass(frozen=True)
class DeviceSearchSettings:
    """What is searched for, and how long.

    `budget`: largest cost of the network, in the unit of the cost; `limits`: of other costs. Without any of them, the
    cheapest of the front is taken that is within `tolerance` (unit of the task's metric) of the best. `verified`:
    members that are evaluated truly; `candidates`: of the search for the front.
    """

    budget: float | None = None
    limits: tuple[Limit, ...] = ()
    tolerance: float = 0.1
    verified: int = 10
    candidates: int = 20_000
    steps_of_front: int = 3
    genetic: GeneticSettings = field(default_factory=GeneticSettings)
    seed: int = 0


@dataclass(frozen=True)
class DeviceFound:
    """What is deployed, and the front behind it."""

    chosen: Verified
    cost: float
    front: tuple[FrontMember, ...]
    checked: tuple[Verified, ...]


def search_device(
    choice: DeviceChoice, space: ElasticSpace, cost: LayerCosts, predictor: Predictor | None, evaluate: Evaluate,
    settings: DeviceSearchSettings, metric: Callable[[float], float] = float,
) -> DeviceFound:  # fmt: skip
    """The best member for a device. `predictor` may be None where the device leaves no choice.

    `metric`: what a quality is in the task's metric, never falling.

    ConstraintError where no member keeps the budget and the limits.
    """
    genes = GeneMap(space, choice.allowed)
    limits = [*settings.limits, *([] if settings.budget is None else [Limit.of(cost, settings.budget)])]
    check_reachable(genes, limits)
    if not genes.count or predictor is None:
        only = configuration_of(genes.bits(genes.sizes[None] - 1)[0], choice.form)
        true = evaluate(only)
        price = float(cost(bits_of([only]))[0])
        found = Verified(only, true, true)
        return DeviceFound(found, price, (FrontMember(bits_of([only])[0], price, true),), (found,))
    fitness = _fitness(predictor, choice)
    ends = [float(cost(genes.bits(g[None]))[0]) for g in (genes.narrowest(), genes.sizes - 1)]
    # The widest member need not be the dearest: where a narrow width is emulated, it costs more.
    inner = np.linspace(ends[0], ends[1], settings.steps_of_front + 2)[1:-1] if ends[0] < ends[1] else np.zeros(0)
    members = front(
        genes, fitness, cost, limits=[float(x) for x in inner], candidates=settings.candidates,
        seed=settings.seed, settings=settings.genetic, name=cost.name,
    )  # fmt: skip
    if limits:
        best = evolve(genes, fitness, limits, settings.genetic)
        pairs = [(configuration_of(b, choice.form), float(f)) for b, f in zip(best.bits, best.fitness, strict=True)]
    else:
        pairs = [(configuration_of(m.bits, choice.form), m.quality) for m in _near(members, settings, metric)]
    checked = verify(pairs, evaluate, settings.verified)
    prices = {one.configuration.key: float(cost(bits_of([one.configuration]))[0]) for one in checked}
    chosen = checked[0]
    if not limits:
        least = metric(checked[0].true) - settings.tolerance
        near = [one for one in checked if metric(one.true) >= least]
        chosen = min(near, key=lambda one: (prices[one.configuration.key], -one.true))
    return DeviceFound(chosen, prices[chosen.configuration.key], tuple(members), tuple(checked))


def _near(
    members: Sequence[FrontMember], settings: DeviceSearchSettings, metric: Callable[[float], float]
) -> list[FrontMember]:
    """As many members as are evaluated truly, the best predicted first, spread over those that may be near it.

    A prediction may be as wrong as the tolerance, so that those of twice of it may be.
    """
    ordered = sorted(members, key=lambda m: -m.quality)
    least = metric(ordered[0].quality) - 2 * settings.tolerance
    near = [m for m in ordered if metric(m.quality) >= least]
    places = np.linspace(0, len(near) - 1, min(settings.verified, len(near)))
    return [near[place] for place in np.unique(places.round().astype(int))]


def _fitness(predictor: Predictor, choice: DeviceChoice) -> Fitness:
    return lambda bits: predictor.quality(bits, choice.form)
