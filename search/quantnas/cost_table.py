"""CostTable: what each choice costs, so that a mixture has an expected cost and a genotype an exact one.

Costs are constants: the expectation is differentiable in the probabilities, and nothing is hooked into the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from hw_profiles import bitops
from search.quantnas.assignment import Assignment, Boundary
from workloads.super_resolution.models.searched import FixedSite, Genotype, SearchSpace
from workloads.super_resolution.models.searched.attention import coarse_sides, esa_convs

BITOPS = "BitOps"
REPORTED_SIDES = (32, 256)
"""LR sides that costs are reported at; the first one is what the literature's figures use."""


@dataclass(frozen=True)
class CostTable:
    """`costs`: [operations, bits of the layer] for each layer, float64; `fixed`: all parts that are not searched."""

    unit: str
    source: str
    space: SearchSpace
    costs: Mapping[str, Tensor]
    fixed: float = 0.0
    boundaries: Sequence[Boundary] = ()

    def __post_init__(self) -> None:
        """UsageError where a layer has no costs or they have another shape."""
        for site in self.space.wiring.sites:
            shape = (len(site.operations), len(site.bits))
            found = self.costs.get(site.name)
            if found is None or tuple(found.shape) != shape:
                held = "none" if found is None else list(found.shape)
                raise UsageError(f"the cost table needs {list(shape)} costs for layer {site.name}, it has {held}")
            if not bool(torch.isfinite(found).all()) or bool((found < 0).any()):
                raise UsageError(f"a cost of layer {site.name} is negative or not a number")

    def expected(self, alphas: Mapping[str, Tensor]) -> Tensor:
        """Expected cost of the searched layers, [], float32, differentiable in `alphas` [operations, bits]."""
        parts = [(alphas[n] * costs.to(alphas[n].device, alphas[n].dtype)).sum() for n, costs in self.costs.items()]
        for edge in self.boundaries:
            producer, consumer = alphas[edge.producer].sum(0), alphas[edge.consumer].sum(0)
            parts.append(producer @ edge.costs.to(producer.device, producer.dtype) @ consumer)
        return torch.stack(parts).sum()

    def to(self, device: torch.device) -> CostTable:
        """The table on a device, where expected costs then need no copy from the host."""
        costs = {name: one.to(device) for name, one in self.costs.items()}
        boundaries = tuple(Boundary(e.producer, e.consumer, e.costs.to(device)) for e in self.boundaries)
        return replace(self, costs=costs, boundaries=boundaries)

    def of(self, genotype: Genotype) -> float:
        """Cost of the searched layers of a network; UsageError for a bit width that its layer does not have."""
        total, place = 0.0, {}
        for site in self.space.wiring.sites:
            choice = genotype.layers[site.name]
            if choice.bits not in site.bits:
                raise UsageError(f"layer {site.name} has {choice.bits} bits; the table has {site.bits}")
            place[site.name] = site.bits.index(choice.bits)
            total += float(self.costs[site.name][site.tokens.index(choice.operation), place[site.name]])
        return total + sum(float(e.costs[place[e.producer], place[e.consumer]]) for e in self.boundaries)

    def uniform(self) -> float:
        """Expected cost of the uniform mixture, where a search starts."""
        with torch.no_grad():
            return float(self.expected({n: torch.full_like(c, 1 / c.numel()) for n, c in self.costs.items()}))

    @property
    def least(self) -> float:
        """Cost of the cheapest network found; without boundaries, of the cheapest one."""
        assignment = Assignment(groups_of(self.space), self.boundaries)
        costs = {name: one.detach().cpu().double().numpy() for name, one in self.costs.items()}
        places = assignment.best({name: -one for name, one in costs.items()}, 1.0)
        return sum(float(costs[name][place]) for name, place in places.items()) + assignment.passing(places)

    @property
    def most(self) -> float:
        """Cost of the dearest choices, boundaries left out."""
        return sum(float(costs.max()) for costs in self.costs.values())

    def plus(self, other: CostTable, weight: float, scale: float) -> CostTable:
        """The weighted sum cost / `self.uniform()` + weight * other / `other.uniform()`, times `scale`."""
        own, theirs = scale / self.uniform(), weight * scale / other.uniform()
        boundaries = [Boundary(e.producer, e.consumer, e.costs * own) for e in self.boundaries]
        boundaries += [Boundary(e.producer, e.consumer, e.costs * theirs) for e in other.boundaries]
        return CostTable(
            unit=f"{self.unit} and {other.unit}", source=f"{self.source}; {other.source}", space=self.space,
            costs={n: c * own + other.costs[n] * theirs for n, c in self.costs.items()},
            fixed=self.fixed * own + other.fixed * theirs, boundaries=tuple(boundaries),
        )  # fmt: skip


def groups_of(space: SearchSpace) -> tuple[tuple[str, ...], ...]:
    """Names of the layers that have one choice together: one each, or those of all cells that share logits."""
    groups: dict[str, tuple[str, ...]] = {}
    for site in space.wiring.sites:
        name = site.shared if space.share_cell_alphas else site.name
        groups[name] = (*groups.get(name, ()), site.name)
    return tuple(groups.values())


def bitops_costs(space: SearchSpace, *, height: int = 32, width: int = 32, exponent: int = 2) -> CostTable:
    """BitOps for an LR input of `height` x `width`: MACs * bits^exponent.

    The exact expectation of BitOps has exponent 2, as weights and activations share a width; 1 is what the authors'
    search minimises, for the ablation. Fixed parts count at the space's `fixed_bits`.
    """
    if exponent not in (1, 2):
        raise UsageError(f"the exponent of BitOps is 2, or 1 for the ablation, not {exponent}")

    def cost(macs: int, bits: int) -> float:
        return bitops(macs, bits, bits) if exponent == 2 else float(macs * bits)

    costs = {}
    for site in space.wiring.sites:
        positions = height * width * site.factor**2
        rows = [[cost(o.macs_per_position * positions, b) for b in site.bits] for o in site.operations]
        costs[site.name] = torch.tensor(rows, dtype=torch.float64)
    fixed = cost(fixed_macs(space, height, width), space.fixed_bits)
    name = BITOPS if exponent == 2 else "MACs x bits"
    return CostTable(name, f"counted at {height}x{width}", space, costs, fixed)


def fixed_macs(space: SearchSpace, height: int, width: int) -> int:
    """Multiply-accumulates of all fixed parts for an LR input of `height` x `width`."""
    return sum(_part_macs(part, height * part.factor, width * part.factor) for part in space.wiring.fixed)


def network_bitops(genotype: Genotype, height: int, width: int) -> float:
    """BitOps of a whole network, fixed parts included."""
    space = genotype.search_space()
    fixed = bitops(fixed_macs(space, height, width), space.fixed_bits, space.fixed_bits)
    return fixed + sum(
        bitops(genotype.operation_at(site).macs_per_position * height * width * site.factor**2, bits, bits)
        for site in space.wiring.sites
        for bits in [genotype.layers[site.name].bits]
    )


def _part_macs(part: FixedSite, height: int, width: int) -> int:
    if part.kind != "esa":
        return part.inputs * part.outputs * part.kernel**2 * height * width
    strided, coarse = coarse_sides(height, width)
    sides = {"stride": strided, "first": coarse, "second": coarse, "third": coarse}
    total = 0
    for name, spec in esa_convs(part.inputs, part.outputs):
        rows, columns = sides.get(name, (height, width))
        total += spec.macs_per_position * rows * columns
    return total
