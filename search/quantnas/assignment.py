"""One choice for each layer where layers have scores of their own and pairs of layers a price: boundaries of precision.

Without boundaries each layer's best choice is the best of all. With them, layers are changed in turn until none gains,
from several starts: each layer for itself, and all layers at one bit width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

Table = npt.NDArray[np.float64]
"""[operations, bits]."""
Pick = Callable[[Table], tuple[int, int]]
"""The place of the choice in a table of scores."""
Places = dict[str, tuple[int, int]]
"""(operation, bit width) of each layer, as places in its table."""
SWEEPS = 20


@dataclass(frozen=True)
class Boundary:
    """What passing a tensor from one layer to another adds, [bits of the producer, bits of the consumer]."""

    producer: str
    consumer: str
    costs: Tensor


def joint(table: Table) -> tuple[int, int]:
    """The greatest entry; of equals, the first."""
    operation, bit = np.unravel_index(int(table.argmax()), table.shape)
    return int(operation), int(bit)


class Assignment:
    """`groups`: names of layers that have one choice together; their tables are alike in shape."""

    def __init__(self, groups: Sequence[tuple[str, ...]], boundaries: Sequence[Boundary]) -> None:
        self.groups = groups
        self.edges = [(e.producer, e.consumer, e.costs.detach().cpu().double().numpy()) for e in boundaries]

    def passing(self, places: Places) -> float:
        """Cost of all boundaries."""
        return sum(float(costs[places[a][1], places[b][1]]) for a, b, costs in self.edges)

    def best(self, scores: Mapping[str, Table], price: float, pick: Pick = joint) -> Places:
        """Choices with a great sum of scores less `price` times the boundaries' cost."""
        tables = {group: np.sum([scores[name] for name in group], axis=0) for group in self.groups}
        starts = [{name: pick(tables[group]) for group in self.groups for name in group}]
        if not self.edges or price == 0:
            return starts[0]
        for bit in range(max(table.shape[1] for table in tables.values())):
            start: Places = {}
            for group, table in tables.items():
                at = min(bit, table.shape[1] - 1)
                start |= dict.fromkeys(group, (pick(table[:, at : at + 1])[0], at))
            starts.append(start)
        found = [self._descend(tables, start, price, pick) for start in starts]

        def value(places: Places) -> float:
            own = sum(float(tables[group][places[group[0]]]) for group in self.groups)
            return own - price * self.passing(places)

        return max(found, key=value)

    def _descend(self, tables: Mapping[tuple[str, ...], Table], places: Places, price: float, pick: Pick) -> Places:
        places = dict(places)
        for _ in range(SWEEPS):
            before = dict(places)
            for group, table in tables.items():
                beside = self._beside(group, places, table.shape[1])
                places |= dict.fromkeys(group, pick(table - price * beside[None]))
            if places == before:
                break
        return places

    def _beside(self, group: tuple[str, ...], places: Places, widths: int) -> npt.NDArray[np.float64]:
        """Cost of the boundaries of a group for each of its bit widths, [bits]."""
        total = np.zeros(widths)
        for a, b, costs in self.edges:
            if a in group and b in group:
                total += np.diagonal(costs)
            elif a in group:
                total += costs[:, places[b][1]]
            elif b in group:
                total += costs[places[a][1]]
        return total
