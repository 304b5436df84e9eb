"""Channel permutation before masking: channels change places so that N:M keeps more, and the network stays the same.

Two channels may change places if they appear in the same tensors, in the same roles: then all producers and consumers
are permuted alike, and no operator is added. Which channels are tied (residual sums, concatenations, splits, pixel
shuffles) comes from `channel_groups`; what it leaves free but a permutation does not (grouped layers, constants with a
value for each channel) is left in place. Pool & Yu, "Channel Permutations for N:M Sparsity" (2021).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, fx

from bitwright.foundation.progress import track
from compress.channel_groups import channel_groups
from compress.equality import prove_equal
from compress.graph import bias_name, clone, is_layer, layer_nodes, set_tensor, tensor, weight_name
from compress.nm_pattern import Sparsity
from compress.ranges import weight_axis
from compress.scaling_rules import PRODUCTS
from compress.sparsity.layouts import WeightLayout, filled_up

TOLERANCE = 1e-5
"""Largest output difference, relative to the largest output, that a permutation may make."""

Sparse = Mapping[str, tuple[Sparsity, WeightLayout]]
"""Weight name -> the pattern that it will get, and how it lies."""


@dataclass(frozen=True)
class Permuted:
    """The permuted network. Sums of |w| over the weights that will be pruned: kept before and after, and if each row
    kept its largest anywhere; `moved`: channels that changed places.
    """

    graph: fx.GraphModule
    before: float
    after: float
    free: float
    moved: int

    @property
    def efficacy(self) -> float:
        """How much of the gap to free rows was closed, in [0, 1]; 0 where there was none."""
        return 0.0 if self.free <= self.before else (self.after - self.before) / (self.free - self.before)


@dataclass
class _Consumer:
    """A weight's canonical rows of |w| as they lie now, short groups filled up, and the columns of each channel id."""

    rows: Tensor
    pattern: Sparsity
    places: dict[int, list[int]]

    def kept(self, columns: list[int]) -> float:
        """What the groups that hold `columns` keep."""
        m = self.pattern.m
        groups = sorted({c // m for c in columns})
        values = torch.stack([self.rows[:, g * m : (g + 1) * m] for g in groups])
        return float(values.topk(self.pattern.n, dim=2).values.double().sum())

    def swap(self, first: int, second: int) -> None:
        """Change the columns of two ids."""
        a, b = self.places[first], self.places[second]
        self.rows[:, a + b] = self.rows[:, b + a]


def permute(graph: fx.GraphModule, sparse: Sparse, example: Tensor, passes: int = 2) -> Permuted:
    """Greedy pairwise swaps, each taken only if all consumers together keep more; the result is proven on `example`.

    The same network gives the same result. GraphError where outputs would change.
    """
    ids = channel_groups(graph).group
    consumers = _consumers(graph, sparse, ids)
    before = sum(c.kept(list(range(c.rows.shape[1]))) for c in consumers)
    free = sum(_free(c) for c in consumers)
    holds: dict[int, int] = {}
    for members in track(_classes(graph, ids), "permuting channels"):
        concerned = [c for c in consumers if members[0] in c.places]
        for _ in range(passes if concerned else 0):
            if not _sweep(members, concerned, holds):
                break
    result = _applied(graph, ids, holds)
    prove_equal(graph, result, example, TOLERANCE)
    after = sum(c.kept(list(range(c.rows.shape[1]))) for c in consumers)
    return Permuted(result, before, after, free, sum(slot != held for slot, held in holds.items()))


def _sweep(members: list[int], consumers: list[_Consumer], holds: dict[int, int]) -> bool:
    """Try all pairs once; whether any was swapped. `holds`: slot -> the id whose content it has now."""
    improved = False
    for first, second in combinations(members, 2):
        touched = [(c, c.places[first] + c.places[second]) for c in consumers]
        if all(a // c.pattern.m == b // c.pattern.m for c, _ in touched for a, b in _pairs(c, first, second)):
            continue
        old = sum(c.kept(columns) for c, columns in touched)
        for c in consumers:
            c.swap(first, second)
        if sum(c.kept(columns) for c, columns in touched) > old * (1 + 1e-6):
            holds[first], holds[second] = holds.get(second, second), holds.get(first, first)
            improved = True
            continue
        for c in consumers:
            c.swap(first, second)
    return improved


def _pairs(consumer: _Consumer, first: int, second: int) -> list[tuple[int, int]]:
    return list(zip(consumer.places[first], consumer.places[second], strict=True))


def _free(consumer: _Consumer) -> float:
    count = consumer.rows.shape[1] * consumer.pattern.n // consumer.pattern.m
    return float(consumer.rows.topk(count, dim=1).values.double().sum())


def _consumers(graph: fx.GraphModule, sparse: Sparse, ids: dict[str, Tensor]) -> list[_Consumer]:
    found: dict[str, _Consumer] = {}
    for _, node in layer_nodes(graph):
        name, source = weight_name(node), node.args[0]
        if name in sparse and name not in found and isinstance(source, fx.Node) and source.name in ids:
            pattern, layout = sparse[name]
            if layout.groups == 1:
                rows = layout.rows(tensor(graph, name).detach().abs())
                found[name] = _Consumer(filled_up(rows, pattern.m).clone(), pattern, _places(ids[source.name]))
    return list(found.values())


def _places(channels: Tensor) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for position, channel in enumerate(channels.tolist()):
        found[channel].append(position)
    return dict(found)


def _classes(graph: fx.GraphModule, ids: dict[str, Tensor]) -> list[list[int]]:
    """Channel ids that may change places with each other, at least two to a class."""
    fixed = {-1}
    for node in graph.graph.nodes:
        if _keeps_places(graph, node) or _pairs_channels(node, ids):
            for each in (node, *node.all_input_nodes):
                fixed.update(ids.get(each.name, torch.empty(0)).tolist())
    roles: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for name, channels in ids.items():
        for channel, places in _places(channels).items():
            roles[channel].append((name, len(places)))
    classes: dict[tuple[tuple[str, int], ...], list[int]] = defaultdict(list)
    for channel, role in sorted(roles.items()):
        if channel not in fixed:
            classes[tuple(role)].append(channel)
    return [members for members in classes.values() if len(members) > 1]


def _keeps_places(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node treats channels by their place: a grouped layer, or an operator with a constant of many values."""
    constants = [n for n in node.all_input_nodes if n.op == "get_attr"]
    if is_layer(node):
        weight = tensor(graph, weight_name(node))
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return bool(weight.shape[1 - weight_axis(node)] != source.meta["val"].shape[1]) or (
            weight.shape[weight_axis(node)] != node.meta["val"].shape[1]
        )
    return any(tensor(graph, str(n.target)).numel() > 1 for n in constants)


def _pairs_channels(node: fx.Node, ids: dict[str, Tensor]) -> bool:
    """Whether a product meets channels of one operand with others of the second, such as those of a gate.

    They may be scaled apart, which is what `channel_groups` tells, and would have to change places together.
    """
    if node.target not in PRODUCTS:
        return False
    held = [ids[n.name] for n in node.all_input_nodes if n.name in ids and len(ids[n.name]) > 1]
    return len(held) > 1 and not torch.equal(held[0], held[1])


def _applied(graph: fx.GraphModule, ids: dict[str, Tensor], holds: dict[int, int]) -> fx.GraphModule:
    """A copy whose weights and biases put each channel where its content went."""
    result = clone(graph)
    done: set[str] = set()
    for _, node in layer_nodes(result):
        name, bias, source = weight_name(node), bias_name(node), node.args[0]
        assert isinstance(source, fx.Node)
        if name in done:
            continue
        done.add(name)
        value, axis = tensor(result, name), weight_axis(node)
        outputs, inputs = (_order(ids.get(n.name), holds) for n in (node, source))
        if outputs is not None:
            value = value.index_select(axis, outputs)
            if bias is not None:
                set_tensor(result, bias, tensor(result, bias).detach().index_select(0, outputs))
        if inputs is not None:
            value = value.index_select(1 - axis, inputs)
        set_tensor(result, name, value.detach().contiguous())
    return result


def _order(channels: Tensor | None, holds: dict[int, int]) -> Tensor | None:
    """The old position that each new position of a tensor takes its channel from; None where none moves."""
    if channels is None or not any(int(c) in holds for c in channels):
        return None
    places = _places(channels)
    order = torch.arange(len(channels))
    for slot, held in holds.items():
        if slot in places:
            order[places[slot]] = torch.tensor(places[held])
    return order
