"""Fewer channels where a device computes whole blocks of them: with 16 lanes, 50 channels take the time of 64.

A removed channel is told by those that stay, as far as it is linear in them: x_r ~ sum_k a_kr x_k + c_r by least
squares over calibration data, folded into the weights and biases of all layers that read it. Channels go one by one,
each time the one that is missed least: the residual variance of a channel given all others, 1 / (S^-1)_rr with S the
second moments of the channels and a constant, times the squared norm of the weights that read it. Compensation by least
squares follows He et al., "Channel Pruning for Accelerating Very Deep Neural Networks" (2017), here between channels
instead of for each filter, so that S is all that is kept of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.foundation.errors import UsageError
from compress.channel_ties import positions, removable_classes, tied_channels
from compress.graph import aten, bias_name, clone, is_layer, layer_nodes, rebuild, set_tensor, tensor, weight_name
from compress.hessian import damping
from compress.ranges import weight_axis
from compress.statistics import observe

_RIDGE = 1e-6
"""Added to the second moments, relative to their mean diagonal: dead channels make them singular."""

Kept = dict[str, list[int]]
"""For each activation that becomes narrower: the channels that stay, ascending."""


@dataclass(frozen=True)
class Narrowed:
    """The narrower network. `widths`: layer -> (channels before, after)."""

    graph: fx.GraphModule
    kept: Kept
    widths: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Class:
    """Channels of which `count` can go, and the layers that make them, by name."""

    numbers: tuple[int, ...]
    count: int
    layers: tuple[str, ...]


class Narrowing:
    """What can be cut to a multiple of `step` channels by removing at most the share `most` of them.

    `graph` has a bias in each layer (see `prepare`) and is not changed; `inputs`: calibration data [N, C, H, W].
    """

    def __init__(self, graph: fx.GraphModule, inputs: Tensor, step: int, most: float) -> None:
        if step < 1 or not 0 <= most < 1:
            raise UsageError(f"channels are cut to a multiple of at least 1 by a share below 1, not {step} and {most}")
        self.graph, self.channels = graph, tied_channels(graph)
        made = {node.name: name for name, node in layer_nodes(graph)}
        self.classes: list[Class] = []
        for numbers in removable_classes(self.channels):
            count = len(numbers) % step
            if 0 < count <= most * len(numbers) and len(numbers) > step:
                holders = [node for node, own in self.channels.items() if numbers[0] in own.tolist()]
                layers = tuple(made[node] for node in holders if node in made)
                self.classes.append(Class(tuple(numbers), count, layers))
        affected = {number for each in self.classes for number in each.numbers}
        self.readers = _readers(graph, self.channels, affected)
        self.moments = _moments(graph, inputs, set(self.readers)) if self.classes else {}

    def cut(self, classes: Sequence[Class]) -> Narrowed:
        """The network with these classes narrowed, whatever is said of the others."""
        result = clone(self.graph)
        readers = _readers(result, self.channels, {number for each in classes for number in each.numbers})
        removed: set[int] = set()
        for each in classes:
            removed |= _least_missed(result, each, readers, self.channels, self.moments, removed)
        for source, layers in readers.items():
            _fold(result, layers, self.moments[source], positions(self.channels[source], removed))
        stay = {
            name: [at for at, number in enumerate(numbers.tolist()) if number not in removed]
            for name, numbers in self.channels.items()
        }
        kept = {name: places for name, places in stay.items() if len(places) < len(self.channels[name])}
        widths = {
            name: (len(self.channels[node.name]), len(kept[node.name]))
            for name, node in layer_nodes(result)
            if node.name in kept
        }
        return Narrowed(cut_channels(result, kept), kept, widths)


def cut_channels(graph: fx.GraphModule, kept: Mapping[str, list[int]]) -> fx.GraphModule:
    """A copy of which only the `kept` channels are left; the values of weights and biases stay."""
    result = clone(graph)
    done: set[str] = set()
    for node in result.graph.nodes:
        if is_layer(node):
            _cut_layer(result, node, kept, done)
        elif node.target is aten.prelu.default and node.name in kept:
            slopes = str(node.args[1].target)
            if tensor(result, slopes).numel() > 1 and slopes not in done:
                done.add(slopes)
                set_tensor(result, slopes, tensor(result, slopes).detach()[kept[node.name]].clone())
    for node in result.graph.nodes:
        if node.name in kept:
            value = node.meta["val"]
            node.meta["val"] = value.new_empty([value.shape[0], len(kept[node.name]), *value.shape[2:]])
    rebuild(result)
    return result


def _cut_layer(graph: fx.GraphModule, node: fx.Node, kept: Mapping[str, list[int]], done: set[str]) -> None:
    name, bias, source = weight_name(node), bias_name(node), node.args[0]
    assert isinstance(source, fx.Node)
    if name in done:
        return
    done.add(name)
    value, axis = tensor(graph, name).detach(), weight_axis(node)
    for dim, stay in ((axis, kept.get(node.name)), (1 - axis, kept.get(source.name))):
        if stay is not None:
            value = value.index_select(dim, torch.tensor(stay))
    set_tensor(graph, name, value.contiguous())
    if bias is not None and node.name in kept:
        set_tensor(graph, bias, tensor(graph, bias).detach()[kept[node.name]].clone())


def _readers(graph: fx.GraphModule, channels: Mapping[str, Tensor], affected: set[int]) -> dict[str, list[fx.Node]]:
    """The layers behind each activation that holds affected channels; each weight once."""
    found: dict[str, list[fx.Node]] = {}
    seen: set[str] = set()
    for _, node in layer_nodes(graph):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if weight_name(node) in seen or not affected.intersection(channels[source.name].tolist()):
            continue
        seen.add(weight_name(node))
        found.setdefault(source.name, []).append(node)
    return found


def _moments(graph: fx.GraphModule, inputs: Tensor, names: set[str]) -> dict[str, Tensor]:
    """Second moments of each activation's channels and of a constant one, [C + 1, C + 1], float64."""
    sums: dict[str, Tensor] = {}

    def see(name: str, value: Tensor) -> None:
        flat = value.movedim(1, 0).flatten(1)
        flat = torch.cat([flat, flat.new_ones(1, flat.shape[1])]).double()
        sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + flat @ flat.T

    observe(graph, inputs, names, see, "seeing which channels tell each other")
    return {name: found + damping(found, _RIDGE) for name, found in sums.items()}


def _least_missed(graph: fx.GraphModule, each: Class, readers: Mapping[str, list[fx.Node]],
                  channels: Mapping[str, Tensor], moments: Mapping[str, Tensor],
                  removed: set[int]) -> set[int]:  # fmt: skip
    """As many of the class as are to go, chosen one by one; `removed` are gone already."""
    numbers = each.numbers
    sources = {s: layers for s, layers in readers.items() if set(numbers).intersection(channels[s].tolist())}
    importance = {s: torch.stack([_input_norms(graph, n) for n in layers]).sum(0) for s, layers in sources.items()}
    gone = set(removed)
    for _ in range(each.count):
        missed = dict.fromkeys((n for n in numbers if n not in gone), 0.0)
        for source in sources:
            left = [at for at, number in enumerate(channels[source].tolist()) if number not in gone]
            index = torch.tensor([*left, len(channels[source])])
            residual = 1 / torch.linalg.inv(moments[source][index][:, index]).diagonal()
            for at, value in zip(left, residual.tolist(), strict=False):
                number = int(channels[source][at])
                if number in missed:
                    missed[number] += value * float(importance[source][at])
        gone.add(min(missed, key=lambda number: missed[number]))
    return gone - removed


def _input_norms(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    """Squared norm of the weights that read each input channel, [C]."""
    weight = tensor(graph, weight_name(node)).detach().double()
    return weight.movedim(1 - weight_axis(node), 0).flatten(1).square().sum(1)


def _fold(graph: fx.GraphModule, layers: list[fx.Node], moments: Tensor, gone: Tensor) -> None:
    """Let the channels that stay stand for those that go, in all layers that read them."""
    if not len(gone):
        return
    count = len(moments) - 1
    left = torch.tensor([at for at in range(count) if at not in set(gone.tolist())])
    index = torch.cat([left, torch.tensor([count])])
    told = torch.linalg.solve(moments[index][:, index], moments[index][:, gone])
    for node in layers:
        name, bias, axis = weight_name(node), bias_name(node), weight_axis(node)
        assert bias is not None
        weight = tensor(graph, name).detach().double().movedim(1 - axis, 0).clone()
        lost = weight[gone]
        weight[left] += torch.einsum("kr,r...->k...", told[:-1], lost)
        constant = torch.einsum("r,r...->...", told[-1], lost)
        rows = constant.flatten(1).sum(1) if constant.dim() > 1 else constant
        set_tensor(graph, name, weight.movedim(0, 1 - axis).float().contiguous())
        set_tensor(graph, bias, (tensor(graph, bias).detach().double() + rows).float())
