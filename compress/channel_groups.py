"""Which channels of which tensors may be scaled together without changing the function of a network.

Every activation channel has one positive scale variable. Operators that commute with a positive scale tie the variables
of their inputs and outputs; convolutions and linear layers separate them, since weights and biases absorb any scale;
all other operators fix theirs to one. Extends the pairwise rewrite of Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction" (2019), to residual sums, concatenations, splits and gates.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, fx

from bitwright.foundation.errors import GraphError
from compress.graph import aten, bias_name, is_layer, output_node, weight_name
from compress.scalars import FIXED, ScalarGroups
from compress.scaling_rules import KEEPING_OPS, POWERS, PRODUCTS, REDUCTIONS, RESHAPES, SPLITS, SUMS


@dataclass(frozen=True)
class Groups:
    """Group (0 ... count-1, or -1 where the channel cannot be scaled) and exponent of every channel, by node name."""

    count: int
    group: dict[str, Tensor]
    exponent: dict[str, Tensor]

    def scales(self, log_scales: Tensor) -> dict[str, Tensor]:
        """Factor by which each tensor's channels are divided, [C], from one logarithm per group, [count]."""
        padded = torch.cat([log_scales.double(), torch.zeros(1, dtype=torch.float64)])
        return {name: torch.exp(padded[index] * self.exponent[name]) for name, index in self.group.items()}


def channel_groups(graph_module: fx.GraphModule) -> Groups:
    """Find the tied channels of a captured network; channels are dimension 1 of every activation."""
    return Grouping(graph_module).groups()


def channels(node: fx.Node) -> int | None:
    """Channels of an activation; None where their number is not constant, and of tokens [N, tokens, C]."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dim() < 2 or not value.is_floating_point() or node.op == "get_attr":
        return None
    return value.shape[1] if isinstance(value.shape[1], int) and value.dim() != 3 else None


def dimension(node: fx.Node, position: int, rank: int) -> int:
    """A dimension argument (default 0), counted from the front."""
    value = node.args[position] if len(node.args) > position else node.kwargs.get("dim", 0)
    if not isinstance(value, int):
        raise GraphError(f"{node.name}: the dimension {value!r} is not a constant")
    return value % rank


class Grouping:
    """Variables of all channels, tied as operators require."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.scalars = ScalarGroups()
        self.variables: dict[fx.Node, list[int]] = {}
        nodes = list(graph_module.graph.nodes)
        for node in nodes:
            count = channels(node)
            if count is not None:
                self.variables[node] = self.scalars.add(count)
        for node in nodes:
            if node.target not in PRODUCTS:
                self.visit(node)
        self._tie_shared_tensors(nodes)
        for node in nodes:
            if node.target in PRODUCTS:
                self._product(node, PRODUCTS[node.target])
        self._fix(output_node(graph_module))

    def groups(self) -> Groups:
        """What was found, numbered."""
        number: dict[int, int] = {FIXED: -1}
        group, exponent = {}, {}
        for node, variables in self.variables.items():
            found = [self.scalars.find(v) for v in variables]
            for root, _ in found:
                number.setdefault(root, len(number) - 1)
            group[node.name] = torch.tensor([number[root] for root, _ in found])
            exponent[node.name] = torch.tensor([power for _, power in found], dtype=torch.float64)
        return Groups(len(number) - 1, group, exponent)

    def visit(self, node: fx.Node) -> None:
        """Tie or fix what one node requires."""
        if is_layer(node):
            rank = 2 if node.target is aten.linear.default else 4
            if node.meta["val"].dim() != rank:
                self._fix(node)
        elif node.op == "get_attr" or node.target in SPLITS:
            return
        elif node.target is operator.getitem:
            self._part(node)
        elif node.target in KEEPING_OPS or self._is_relu_clamp(node) or self._is_zero_pad(node):
            self._keep(node)
        elif node.target in POWERS:
            self._keep(node, POWERS[node.target])
        elif node.target is aten.pow.Tensor_Scalar and isinstance(node.args[1], (int, float)):
            self._keep(node, float(node.args[1]))
        elif node.target in REDUCTIONS and self._keeps_channels(node):
            self._keep(node)
        elif node.target in RESHAPES:
            self._reshape(node)
        elif node.target in SUMS:
            self._sum(node)
        elif node.target is aten.cat.default:
            self._cat(node)
        elif node.target is aten.slice.Tensor:
            self._slice(node)
        elif node.target is aten.pixel_shuffle.default:
            self._shuffle(node)
        else:
            self._fix(node)

    def _fix(self, node: fx.Node) -> None:
        """The node cannot be scaled, nor can what it reads."""
        for each in (node, *node.all_input_nodes):
            if each.target in SPLITS and each is not node:
                self._fix(each)
            for variable in self.variables.get(each, ()):
                self.scalars.fix(variable)

    def _tie(self, node: fx.Node, out: list[int], source: list[int], power: float = 1.0) -> None:
        if len(out) != len(source):
            self._fix(node)
            return
        for left, right in zip(out, source, strict=True):
            self.scalars.tie(left, right, power)

    def _keep(self, node: fx.Node, power: float = 1.0) -> None:
        source = node.args[0]
        if isinstance(source, fx.Node) and source in self.variables and node in self.variables:
            self._tie(node, self.variables[node], self.variables[source], power)
        else:
            self._fix(node)

    @staticmethod
    def _is_relu_clamp(node: fx.Node) -> bool:
        low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
        high = node.args[2] if len(node.args) > 2 else node.kwargs.get("max")
        is_zero = isinstance(low, (int, float)) and low == 0
        return node.target is aten.clamp.default and is_zero and high is None

    @staticmethod
    def _is_zero_pad(node: fx.Node) -> bool:
        if node.target not in (aten.constant_pad_nd.default, aten.pad.default):
            return False
        position = 2 if node.target is aten.constant_pad_nd.default else 3
        amounts, value = node.args[1], node.args[position] if len(node.args) > position else 0
        return isinstance(amounts, (list, tuple)) and len(amounts) <= 4 and value in (0, None)

    @staticmethod
    def _keeps_channels(node: fx.Node) -> bool:
        source, dims = node.args[0], node.args[1] if len(node.args) > 1 else None
        if not isinstance(source, fx.Node) or not isinstance(dims, (list, tuple)) or not dims:
            return False
        rank = source.meta["val"].dim()
        return all(int(d) % rank >= 2 for d in dims if isinstance(d, int))

    def _reshape(self, node: fx.Node) -> None:
        source = node.args[0]
        if isinstance(source, fx.Node) and node in self.variables and source in self.variables:
            before, after = source.meta["val"].shape, node.meta["val"].shape
            if before[1] == after[1] and str(before[0]) == str(after[0]):
                self._keep(node)
                return
        self._fix(node)

    def _part(self, node: fx.Node) -> None:
        parts, index = node.args[0], node.args[1]
        if not isinstance(parts, fx.Node) or parts.target not in SPLITS or not isinstance(index, int):
            self._fix(node)
            return
        source = parts.args[0]
        if not isinstance(source, fx.Node) or source not in self.variables or node not in self.variables:
            self._fix(node)
            return
        values = parts.meta["val"]
        along = dimension(parts, SPLITS[parts.target], source.meta["val"].dim())
        start = sum(int(v.shape[1]) for v in values[:index]) if along == 1 else 0
        own = self.variables[node]
        self._tie(node, own, self.variables[source][start : start + len(own)])

    def _slice(self, node: fx.Node) -> None:
        source = node.args[0]
        if not isinstance(source, fx.Node) or source not in self.variables or node not in self.variables:
            self._fix(node)
            return
        if dimension(node, 1, source.meta["val"].dim()) != 1:
            self._keep(node)
            return
        bounds = [*node.args[2:], None, None, None][:3]
        if not all(b is None or isinstance(b, int) for b in bounds):
            self._fix(node)
            return
        start, end, step = (b if isinstance(b, int) else None for b in bounds)
        self._tie(node, self.variables[node], self.variables[source][start:end:step])

    def _cat(self, node: fx.Node) -> None:
        sources = list(node.all_input_nodes)
        listed = node.args[0]
        assert isinstance(listed, (list, tuple))
        if node not in self.variables or not all(s in self.variables for s in sources):
            self._fix(node)
            return
        members = [self.variables[s] for s in listed if isinstance(s, fx.Node)]
        joined = dimension(node, 1, node.meta["val"].dim()) == 1
        for part in [list(chain.from_iterable(members))] if joined else members:
            self._tie(node, self.variables[node], part)

    def _shuffle(self, node: fx.Node) -> None:
        source, factor = node.args[0], node.args[1]
        if not isinstance(source, fx.Node) or not isinstance(factor, int) or node not in self.variables:
            self._fix(node)
            return
        for index, variable in enumerate(self.variables.get(source, ())):
            self.scalars.tie(variable, self.variables[node][index // factor**2])

    def _sum(self, node: fx.Node) -> None:
        operands = [a for a in node.args[:2] if not (isinstance(a, (int, float)) and a == 0)]
        own = self.variables.get(node, [])
        if not own or not all(isinstance(a, fx.Node) and len(self.variables.get(a, ())) == len(own) for a in operands):
            self._fix(node)
            return
        for operand in operands:
            assert isinstance(operand, fx.Node)
            self._tie(node, own, self.variables[operand])

    def _product(self, node: fx.Node, power: float) -> None:
        """out = left * right ** power. Where both are free and unrelated, the smaller or the later operand is fixed."""
        own = self.variables.get(node, [])
        left, right = (self._operand(a, len(own)) for a in node.args[:2])
        if not own or left is None or right is None:
            self._fix(node)
            return
        for i, out in enumerate(own):
            root_left, exponent_left = self.scalars.find(left[i])
            root_right, exponent_right = self.scalars.find(right[i])
            if FIXED not in {root_left, root_right} and root_left == root_right:
                total = exponent_left + power * exponent_right
                if abs(total) < 1e-9:
                    self.scalars.fix(out)
                else:
                    self.scalars.tie(out, left[i], total / exponent_left)
            elif root_left == FIXED and root_right != FIXED:
                self.scalars.tie(out, right[i], power)
            else:
                self.scalars.fix(right[i])
                self.scalars.tie(out, left[i])

    def _operand(self, argument: object, count: int) -> list[int] | None:
        """Scalars of a factor, one per output channel; constants and single channels that broadcast are one."""
        if not isinstance(argument, fx.Node) or argument.op == "get_attr":
            return [FIXED] * count
        known = self.variables.get(argument)
        if known is None or len(known) == count:
            return known
        if len(known) == 1:
            self.scalars.fix(known[0])
            return [FIXED] * count
        return None

    def _tie_shared_tensors(self, nodes: list[fx.Node]) -> None:
        """Calls of one weight have the same scales; tensors that anything else reads cannot absorb a scale."""
        calls: dict[str, list[fx.Node]] = defaultdict(list)
        readers: dict[str, set[str]] = defaultdict(set)
        for node in nodes:
            if is_layer(node):
                calls[weight_name(node)].append(node)
                readers[bias_name(node) or ""].add(weight_name(node))
        for node in nodes:
            for used in node.all_input_nodes:
                if used.op != "get_attr":
                    continue
                name = str(used.target)
                role = node.args.index(used) if used in node.args else -1
                if not (is_layer(node) and role in {1, 2} and (role == 1) == (name in calls)):
                    readers[name].add(f"operator {node.name}")
        for name, layers in calls.items():
            biases = {bias_name(layer) for layer in layers}
            alone = name not in readers and all(b is None or readers[b] == {name} for b in biases)
            for layer in layers:
                source = layer.args[0]
                first = layers[0].args[0]
                assert isinstance(source, fx.Node)
                assert isinstance(first, fx.Node)
                if not alone or len(biases) > 1 or layer.args[3:] != layers[0].args[3:] or source not in self.variables:
                    self._fix(layer)
                else:
                    self._tie(layer, self.variables[layer], self.variables[layers[0]])
                    self._tie(layer, self.variables[source], self.variables[first])
