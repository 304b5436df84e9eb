"""Which tensors of a network can carry zero-padded channels, and where in them the padding sits."""

from __future__ import annotations

import operator
from collections import defaultdict

from torch import Tensor, fx

from compress.graph import aten, bias_name, is_layer, layer_nodes, weight_name

PAD = -1
Layout = tuple[int, ...]
"""For each channel of a padded tensor: the channel of the unpadded tensor that it holds, ascending, or PAD."""

KEEPS_ZERO = {
    aten.relu.default, aten.relu6.default, aten.leaky_relu.default, aten.prelu.default, aten.hardswish.default,
    aten.silu.default, aten.gelu.default, aten.elu.default, aten.tanh.default, aten.abs.default, aten.neg.default,
    aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec, aten.dropout.default, aten.clone.default,
    aten.contiguous.default, aten.alias.default, aten.detach.default, aten.reflection_pad2d.default,
    aten.replication_pad2d.default,
}  # fmt: skip
"""f(0) = 0, channel by channel."""
KEEPS_FINITE = {aten.sigmoid.default, aten.hardsigmoid.default, aten.hardtanh.default, aten.clamp.default}
"""Channel by channel, finite where the input is."""
NEEDS_ZERO = {aten.sqrt.default}
"""f(0) = 0, but not a number for other inputs that padding could hold."""
SPATIAL_PADS = {aten.constant_pad_nd.default, aten.pad.default}
REDUCTIONS = {aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default}
SUMS = {aten.add.Tensor, aten.sub.Tensor, aten.maximum.default, aten.minimum.default}
PRODUCTS = {aten.mul.Tensor}
SPLITS = {aten.split_with_sizes.default, aten.split.Tensor, aten.chunk.default}


class _RefusedError(Exception):
    """These tensors cannot be padded together."""

    def __init__(self, tensors: list[fx.Node]) -> None:
        super().__init__()
        self.tensors = tensors


def padded_layouts(graph_module: fx.GraphModule, multiple: int) -> dict[fx.Node, Layout]:
    """The layouts of all tensors that change when layer outputs are padded to a multiple of channels.

    Starts from every layer padded at its end and gives up the layers behind each tensor that an operator cannot take
    padded, until nothing is refused. Layers next to a group of channels, the network's input and its output stay.
    """
    given_up: set[str] = set()
    while True:
        attempt = _Attempt(graph_module, multiple, given_up)
        try:
            for node in graph_module.graph.nodes:
                attempt.visit(node)
        except _RefusedError as refused:
            given_up |= {name for t in refused.tensors for name in attempt.origins.get(t, ())}
            continue
        return attempt.layouts


def cut(layout: Layout, boundary: int) -> int:
    """Where a padded tensor is cut for a cut of the unpadded one in front of channel `boundary`."""
    return next((i for i, channel in enumerate(layout) if channel >= boundary), len(layout)) if boundary else 0


def channel_count(node: fx.Node) -> int:
    """Channels of an unpadded activation; 0 where it has none or their number is not constant."""
    value = node.meta.get("val")
    known = isinstance(value, Tensor) and value.dim() > 1 and isinstance(value.shape[1], int)
    return int(value.shape[1]) if known and isinstance(value, Tensor) else 0


def slice_dim(node: fx.Node) -> object:
    """The dimension that a slice cuts."""
    return node.args[1] if len(node.args) > 1 else 0


def slice_bounds(node: fx.Node, channels: int) -> tuple[int, int] | None:
    """First and last-plus-one channel of a slice along channels with step 1; None where it is another slice."""
    defaults = (None, 0, None, None, 1)
    dim, start, end, step = (node.args[i] if len(node.args) > i else defaults[i] for i in range(1, 5))
    if dim != 1 or step not in (1, None) or not all(b is None or isinstance(b, int) for b in (start, end)):
        return None
    first, last, _ = slice(start, end).indices(channels)
    return first, max(first, last)


class _Attempt:
    def __init__(self, graph_module: fx.GraphModule, multiple: int, given_up: set[str]) -> None:
        self.multiple = multiple
        self.given_up = given_up
        self.shared = _shared_constants(graph_module)
        self.layouts: dict[fx.Node, Layout] = {}
        self.origins: dict[fx.Node, frozenset[str]] = {}
        self.zero: set[fx.Node] = set()
        self.parts: dict[fx.Node, list[Layout]] = {}
        self.first_calls: dict[str, fx.Node] = {}

    def visit(self, node: fx.Node) -> None:
        """Lay out what a node makes; raises where it cannot take the layouts of what it reads."""
        padded = [s for s in node.all_input_nodes if s in self.layouts or s in self.parts]
        if is_layer(node):
            self._layer(node)
        elif not padded or node.target is aten.sym_size.int:
            return
        elif node.target in NEEDS_ZERO and not self.zero.issuperset(padded):
            raise _RefusedError(padded)
        elif node.target in KEEPS_ZERO | NEEDS_ZERO or self._is_spatial_reduction(node):
            self._keep(node, padded, zero=True)
        elif node.target in KEEPS_FINITE or self._is_spatial_pad(node):
            self._keep(node, padded, zero=False)
        elif node.target in SUMS or node.target in PRODUCTS:
            self._binary(node, padded)
        elif node.target is aten.cat.default:
            self._cat(node, padded)
        elif node.target in SPLITS:
            self._split(node, padded)
        elif node.target is operator.getitem:
            self._part(node)
        elif node.target is aten.slice.Tensor:
            self._slice(node, padded)
        else:
            raise _RefusedError(padded)

    def _set(self, node: fx.Node, layout: Layout, sources: list[fx.Node], *, zero: bool) -> None:
        if PAD in layout:
            self.layouts[node] = layout
            self.origins[node] = frozenset[str]().union(*(self.origins.get(s, frozenset()) for s in sources))
            if zero:
                self.zero.add(node)

    def _full(self, node: fx.Node) -> Layout:
        return self.layouts.get(node) or tuple(range(channel_count(node)))

    def _layer(self, node: fx.Node) -> None:
        name, source = weight_name(node), node.args[0]
        assert isinstance(source, fx.Node)
        first = self.first_calls.setdefault(name, node).args[0]
        assert isinstance(first, fx.Node)
        if self.layouts.get(first) != self.layouts.get(source):
            raise _RefusedError([first, source])
        linear = node.target is aten.linear.default
        grouped = not linear and (node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)) != 1
        plain = node.meta["val"].dim() == (2 if linear else 4) and not grouped
        if source in self.layouts and (not plain or name in self.shared):
            raise _RefusedError([source])
        count = channel_count(node)
        missing = -count % self.multiple
        if plain and missing and name not in self.given_up | self.shared:
            self.layouts[node] = (*range(count), *[PAD] * missing)
            self.origins[node] = frozenset({name})
            self.zero.add(node)

    def _keep(self, node: fx.Node, padded: list[fx.Node], *, zero: bool) -> None:
        source = node.args[0]
        if padded != [source] or source not in self.layouts:
            raise _RefusedError(padded)
        if node.target is aten.prelu.default and not self._own_slopes(node):
            raise _RefusedError(padded)
        self._set(node, self.layouts[padded[0]], padded, zero=zero and padded[0] in self.zero)

    @staticmethod
    def _own_slopes(node: fx.Node) -> bool:
        slopes = node.args[1]
        return isinstance(slopes, fx.Node) and slopes.op == "get_attr" and len(slopes.users) == 1

    @staticmethod
    def _is_spatial_pad(node: fx.Node) -> bool:
        amounts = node.args[1] if len(node.args) > 1 else None
        return node.target in SPATIAL_PADS and isinstance(amounts, (list, tuple)) and len(amounts) <= 4

    @staticmethod
    def _is_spatial_reduction(node: fx.Node) -> bool:
        source, dims = node.args[0], node.args[1] if len(node.args) > 1 else None
        if node.target not in REDUCTIONS or not isinstance(source, fx.Node) or not isinstance(dims, (list, tuple)):
            return False
        rank = source.meta["val"].dim()
        return bool(dims) and all(isinstance(d, int) and d % rank >= 2 for d in dims)

    def _binary(self, node: fx.Node, padded: list[fx.Node]) -> None:
        """Both operands have one layout, or the other operand is one value for all channels."""
        count, rank = channel_count(node), node.meta["val"].dim()
        layouts: set[Layout] = set()
        for operand in node.args[:2]:
            if isinstance(operand, fx.Node) and isinstance(operand.meta.get("val"), Tensor):
                value = operand.meta["val"]
                if value.dim() == rank and channel_count(operand) == count and operand.op != "get_attr":
                    layouts.add(self._full(operand))
                elif operand in self.layouts or not (value.dim() == 0 or (value.dim() == rank and value.shape[1] == 1)):
                    raise _RefusedError([operand] if operand in self.layouts else padded)
        if len(layouts) != 1:
            raise _RefusedError(padded)
        zeros = [operand in self.zero for operand in node.args[:2]]
        self._set(node, layouts.pop(), padded, zero=any(zeros) if node.target in PRODUCTS else all(zeros))

    def _cat(self, node: fx.Node, padded: list[fx.Node]) -> None:
        listed, dim = node.args[0], node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        assert isinstance(listed, (list, tuple))
        members = [m for m in listed if isinstance(m, fx.Node) and channel_count(m)]
        if dim not in (1, 1 - node.meta["val"].dim()) or len(members) != len(listed):
            raise _RefusedError(padded)
        layout: list[int] = []
        start = 0
        for member in members:
            layout.extend(PAD if c == PAD else start + c for c in self._full(member))
            start += channel_count(member)
        self._set(node, tuple(layout), padded, zero=all(m in self.zero for m in padded))

    def _split(self, node: fx.Node, padded: list[fx.Node]) -> None:
        source = padded[0]
        dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        if dim not in (1, 1 - source.meta["val"].dim()) or any(u.target is not operator.getitem for u in node.users):
            raise _RefusedError(padded)
        layout, parts, start = self.layouts[source], [], 0
        for value in node.meta["val"]:
            end = start + int(value.shape[1])
            parts.append(_piece(layout, start, end))
            start = end
        self.parts[node] = parts
        self.origins[node] = self.origins[source]
        if source in self.zero:
            self.zero.add(node)

    def _part(self, node: fx.Node) -> None:
        parts, index = node.args[0], node.args[1]
        assert isinstance(parts, fx.Node)
        assert isinstance(index, int)
        self._set(node, self.parts[parts][index], [parts], zero=parts in self.zero)

    def _slice(self, node: fx.Node, padded: list[fx.Node]) -> None:
        source = padded[0]
        if slice_dim(node) in (0, 2, 3):
            self._keep(node, padded, zero=True)
            return
        bounds = slice_bounds(node, channel_count(source))
        if bounds is None:
            raise _RefusedError(padded)
        self._set(node, _piece(self.layouts[source], *bounds), padded, zero=source in self.zero)


def _piece(layout: Layout, start: int, end: int) -> Layout:
    """The layout of channels start ... end - 1; padding goes with the channel in front of it."""
    return tuple(c if c == PAD else c - start for c in layout[cut(layout, start) : cut(layout, end)])


def _shared_constants(graph_module: fx.GraphModule) -> set[str]:
    """Layers whose weight or bias something else reads too: neither side of them can be padded."""
    readers: dict[str, set[str]] = defaultdict(set)
    for node in graph_module.graph.nodes:
        for constant in (s for s in node.all_input_nodes if s.op == "get_attr"):
            own = is_layer(node) and constant in node.args[1:3]
            role = f"{weight_name(node)}:{node.args.index(constant)}" if own else node.name
            readers[str(constant.target)].add(role)
    names = set()
    for _, node in layer_nodes(graph_module):
        if any(len(readers[c]) > 1 for c in (weight_name(node), bias_name(node)) if c is not None):
            names.add(weight_name(node))
    return names
