"""Which channels can only be removed together: those that a sum, a product or a concatenation puts side by side."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from compress.channel_groups import Grouping
from compress.channel_layouts import KEEPS_FINITE, KEEPS_ZERO
from compress.graph import aten, is_layer, tensor, weight_name
from compress.ranges import weight_axis
from compress.scaling_rules import RESHAPES, SPLITS

_BY_PLACE = {operator.getitem, aten.slice.Tensor, aten.pixel_shuffle.default, *SPLITS}
_FLATTENING = {aten.flatten.using_ints, aten.squeeze.dim, aten.squeeze.dims}


def tied_channels(graph_module: fx.GraphModule) -> dict[str, Tensor]:
    """Number of every channel of every activation, [C] by node name; tied ones share it, -1 where it must stay.

    What counts channels or treats them by their place (groups, splits, shuffles, reshapes, constants of many values)
    keeps them, and so do transposed convolutions, whose outputs do not all see the same taps, and the network's input
    and output.
    """
    return _Ties(graph_module).groups().group


class _Ties(Grouping):
    """Channels that are scaled together, where scaling is not asked for: any operator on each channel alone will do."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        super().__init__(graph_module)

    def visit(self, node: fx.Node) -> None:
        """Tie or fix what one node requires."""
        if self._counts_channels(node):
            self._fix(node)
        elif node.target in KEEPS_ZERO or node.target in KEEPS_FINITE:
            self._keep(node)
        else:
            super().visit(node)

    def _counts_channels(self, node: fx.Node) -> bool:
        """Whether a node has an argument that says how many channels there are, or what each of them is."""
        if is_layer(node):
            return self._grouped(node) or node.target is aten.conv_transpose2d.input
        if node.target is aten.prelu.default:
            return not self._own_slopes(node)
        return node.target in _BY_PLACE or (node.target in RESHAPES and node.target not in _FLATTENING)

    def _keep(self, node: fx.Node, power: float = 1.0) -> None:
        super()._keep(node)

    def _product(self, node: fx.Node, power: float) -> None:
        own = self.variables.get(node, [])
        for argument in node.args[:2]:
            if not isinstance(argument, fx.Node):
                continue
            operand = self.variables.get(argument)
            if argument.op == "get_attr" and tensor(self.graph_module, str(argument.target)).numel() > 1:
                self._fix(node)
            elif operand is not None and len(operand) == len(own):
                self._tie(node, own, operand)
            elif operand is not None and len(operand) != 1:
                self._fix(node)

    def _grouped(self, node: fx.Node) -> bool:
        weight, source = tensor(self.graph_module, weight_name(node)), node.args[0]
        assert isinstance(source, fx.Node)
        axis = weight_axis(node)
        return bool(
            weight.shape[1 - axis] != source.meta["val"].shape[1] or weight.shape[axis] != node.meta["val"].shape[1]
        )

    def _own_slopes(self, node: fx.Node) -> bool:
        slopes = node.args[1]
        if not isinstance(slopes, fx.Node) or slopes.op != "get_attr":
            return False
        return len(slopes.users) == 1 or tensor(self.graph_module, str(slopes.target)).numel() == 1


def removable_classes(channels: dict[str, Tensor]) -> list[list[int]]:
    """Numbers of channels that play the same part, once in each tensor that holds them; any of a class can go."""
    roles: dict[int, list[str]] = {}
    repeated: set[int] = set()
    for name, numbers in channels.items():
        for number in numbers.tolist():
            seen = roles.setdefault(number, [])
            if seen and seen[-1] == name:
                repeated.add(number)
            seen.append(name)
    classes: dict[tuple[str, ...], list[int]] = {}
    for number, names in roles.items():
        if number >= 0 and number not in repeated:
            classes.setdefault(tuple(names), []).append(number)
    return list(classes.values())


def positions(channels: Tensor, numbers: set[int]) -> Tensor:
    """Where in a tensor the channels of `numbers` are, ascending."""
    return torch.tensor([at for at, number in enumerate(channels.tolist()) if number in numbers], dtype=torch.long)
