"""Repair: members that break a limit lose width where it costs the least quality for what it saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation.errors import ConstraintError
from search.eqnet.accounting import LayerCosts
from search.eqnet.encoder import Bits
from search.eqnet.genes import GeneMap, Genes

Cost = Callable[[Bits], NDArray[np.float64]]
"""Cost of a population, [members]. `LayerCosts` is one; any other callable is asked for each change by itself."""

BACKGROUNDS = 32
ROUNDS = 200


@dataclass(frozen=True)
class Limit:
    """A cost that no member may exceed."""

    name: str
    cost: Cost
    most: float

    @staticmethod
    def of(costs: LayerCosts, most: float) -> Limit:
        """Under the cost's own name."""
        return Limit(costs.name, costs, most)


class Repair:
    """Called with a population, it returns one that keeps all limits.

    What a change of a gene costs in quality is its mean effect on `fitness` over random members, taken once. In each
    round a member makes the changes with the least loss for what they save, as many as its excess needs.
    """

    def __init__(
        self, genes: GeneMap, limits: Sequence[Limit], fitness: Callable[[Bits], NDArray[np.float64]], seed: int
    ) -> None:
        self.genes, self.limits = genes, list(limits)
        self._losses = _mean_losses(genes, fitness, seed) if self.limits else np.zeros((genes.count, 1))

    def __call__(self, members: Genes) -> Genes:
        """Members within the limits. One that no narrowing brings there becomes the narrowest, or the widest.

        ConstraintError where neither keeps all limits either.
        """
        result = members.copy()
        for _ in range(ROUNDS):
            broken = np.zeros(len(result), bool)
            bits = self.genes.bits(result)
            for limit in self.limits:
                excess = limit.cost(bits) - limit.most
                mine = np.nonzero((excess > _slack(limit.most)) & ~broken)[0]
                if len(mine):
                    result[mine], stuck = self._narrowed(result[mine], excess[mine], limit)
                    if stuck.any():
                        result[mine[stuck]] = self._end
                broken[mine] = True
            if not broken.any():
                return result
        result[broken] = self._end
        return result

    @cached_property
    def _end(self) -> Genes:
        """The narrowest member or the widest, whichever keeps all limits; narrow may be dear where it is emulated."""
        for end in (self.genes.narrowest(), self.genes.sizes - 1):
            bits = self.genes.bits(end[None])
            if all(float(limit.cost(bits)[0]) <= limit.most + _slack(limit.most) for limit in self.limits):
                return end
        limit = self.limits[0]
        raise ConstraintError(f"{limit.name} of {limit.most:.6g} cannot be reached by narrowing layers")

    def _narrowed(self, members: Genes, excess: NDArray[np.float64], limit: Limit) -> tuple[Genes, NDArray[np.bool_]]:
        """One round for members that all exceed one limit, by `excess`; and which of them nothing narrows."""
        rows = np.arange(len(members))[:, None]
        saved = self._savings(members, limit)
        loss = self._losses[None] - self._losses[np.arange(self.genes.count), members][:, :, None]
        places = np.arange(saved.shape[2])
        # A wider gene never helps a budget by itself, and could make rounds go in circles.
        usable = (saved > 0) & (places < members[:, :, None])
        ratio = np.where(usable, loss / np.where(usable, saved, 1.0), np.inf)
        place = ratio.argmin(2)
        gene = np.arange(self.genes.count)[None]
        least, gain = ratio[rows, gene, place], saved[rows, gene, place]
        order = least.argsort(1, kind="stable")
        gain = np.where(np.isfinite(least), gain, 0.0)[rows, order]
        before = gain.cumsum(1) - gain
        taken = (before < excess[:, None]) & np.isfinite(least[rows, order])
        result = members.copy()
        chosen_rows, at = np.nonzero(taken)
        chosen = order[chosen_rows, at]
        result[chosen_rows, chosen] = place[chosen_rows, chosen]
        return result, ~np.isfinite(least).any(1)

    def _savings(self, members: Genes, limit: Limit) -> NDArray[np.float64]:
        """What each place of each gene saves, [members, genes, places]; NaN (not legal) saves nothing."""
        bits = self.genes.bits(members)
        if isinstance(limit.cost, LayerCosts):
            saved = self.genes.by_gene(*limit.cost.savings(bits))
        else:
            saved = _differences(self.genes, members, limit.cost)
        return np.nan_to_num(saved, nan=0.0)


def _differences(genes: GeneMap, members: Genes, cost: Cost) -> NDArray[np.float64]:
    """Savings of any callable, change by change."""
    places = genes.values.shape[1]
    changed = np.repeat(members[:, None, None], genes.count, 1).repeat(places, 2)
    for gene in range(genes.count):
        changed[:, gene, :, gene] = np.minimum(np.arange(places), genes.sizes[gene] - 1)
    now = cost(genes.bits(members))[:, None, None]
    costs = cost(genes.bits(changed.reshape(-1, genes.count))).reshape(len(members), genes.count, places)
    saved: NDArray[np.float64] = now - costs
    return saved


def _mean_losses(genes: GeneMap, fitness: Callable[[Bits], NDArray[np.float64]], seed: int) -> NDArray[np.float64]:
    """Quality that each place of a gene loses against its widest, mean over random members, [genes, places]."""
    if not genes.count:
        return np.zeros((0, 1))
    backgrounds = genes.random(np.random.default_rng([seed, 2]), BACKGROUNDS)
    gains = _differences(genes, backgrounds, lambda bits: -fitness(bits))
    quality = gains.mean(0)
    widest = quality[np.arange(genes.count), genes.sizes - 1]
    losses: NDArray[np.float64] = widest[:, None] - quality
    return losses


def _slack(limit: float) -> float:
    """What rounding in a sum may add."""
    return 1e-9 * max(1.0, abs(limit))
