"""Zero-padding of channel counts to the multiple that a device's kernels like; the function of the network stays."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, fx

from bitwright.foundation.errors import UsageError
from compress.channel_layouts import PAD, SPLITS, Layout, channel_count, cut, padded_layouts, slice_bounds, slice_dim
from compress.compressed import CompressedModel, QuantizedWeight
from compress.graph import aten, bias_name, clone, layer_nodes, rebuild, set_tensor, tensor, weight_name
from compress.quantizers import QuantParams
from compress.ranges import weight_axis


def pad_channels(model: CompressedModel, multiple: int) -> tuple[CompressedModel, dict[str, tuple[int, int]]]:
    """A model whose layers have a multiple of `multiple` output channels wherever the graph allows it.

    Padded channels come out of zero weights and meet zero weights in the next layer, so that the function is the same.
    Returns also what was padded: layer -> (channels before, after). Network input and output, pixel shuffles and groups
    stay as they are. `model` is not changed. The result is for exporting: it cannot be loaded onto the original graph.
    """
    if multiple < 1:
        raise UsageError(f"channels cannot be padded to a multiple of {multiple}")
    graph = clone(model.graph)
    layouts = padded_layouts(graph, multiple)
    padded = CompressedModel(graph, model.plan, dict(model.weights), dict(model.activations))
    counts = {}
    done: set[str] = set()
    for name, node in layer_nodes(graph):
        if node in layouts:
            counts[name] = (channel_count(node), len(layouts[node]))
        if weight_name(node) not in done:
            done.add(weight_name(node))
            _pad_layer(padded, node, layouts)
    for node in graph.graph.nodes:
        _pad_operator(graph, node, layouts)
    for node, layout in layouts.items():
        value = node.meta["val"]
        node.meta["val"] = value.new_empty([value.shape[0], len(layout), *value.shape[2:]])
    rebuild(graph)
    return padded, counts


def spread(value: Tensor, dim: int, layout: Layout | None) -> Tensor:
    """Move channels along `dim` to where a layout puts them, zeros in between; None: as it is."""
    if layout is None:
        return value
    index = torch.tensor(layout)
    return value.index_select(dim, index.clamp(min=0)).index_fill(dim, (index == PAD).nonzero().flatten(), 0)


def _pad_layer(model: CompressedModel, node: fx.Node, layouts: dict[fx.Node, Layout]) -> None:
    source, name, bias = node.args[0], weight_name(node), bias_name(node)
    assert isinstance(source, fx.Node)
    rows, columns = layouts.get(node), layouts.get(source)
    axis = weight_axis(node)
    both = ((axis, rows), (1 - axis, columns))
    value = tensor(model.graph, name)
    for dim, layout in both:
        value = spread(value, dim, layout)
    set_tensor(model.graph, name, value)
    if bias is not None and rows is not None:
        set_tensor(model.graph, bias, spread(tensor(model.graph, bias), 0, rows))
    if name in model.weights:
        weight = model.weights[name]
        params = weight.params
        if params.axis is not None and rows is not None:
            idle = (torch.tensor(rows) == PAD).to(params.scale.dtype)
            params = QuantParams(spread(params.scale, 0, rows) + idle, spread(params.zero_point, 0, rows), params.axis)
        # Padding stands for zero, which is the zero point: shift it to integer zero and back.
        integers = weight.integers.to(torch.int32) - weight.params.broadcast(weight.integers.dim())[1]
        for dim, layout in both:
            integers = spread(integers, dim, layout)
        integers = (integers + params.broadcast(integers.dim())[1]).to(weight.integers.dtype)
        model.weights[name] = QuantizedWeight(integers, params, weight.form)


def _pad_operator(graph: fx.GraphModule, node: fx.Node, layouts: dict[fx.Node, Layout]) -> None:
    """Adjust the constants of an operator other than a layer to the padded tensor that it reads."""
    source = node.args[0] if node.args else None
    layout = layouts.get(source) if isinstance(source, fx.Node) else None
    if layout is None or not isinstance(source, fx.Node):
        return
    if node.target in SPLITS:
        ends = torch.tensor([int(v.shape[1]) for v in node.meta["val"]]).cumsum(0).tolist()
        cuts = [0, *(cut(layout, end) for end in ends[:-1]), len(layout)]
        node.target = aten.split_with_sizes.default
        node.args = (source, [b - a for a, b in itertools.pairwise(cuts)], 1)
        node.kwargs = {}
    elif node.target is aten.slice.Tensor and slice_dim(node) == 1:
        bounds = slice_bounds(node, channel_count(source))
        assert bounds is not None
        node.args = (source, 1, cut(layout, bounds[0]), cut(layout, bounds[1]), 1)
    elif node.target is aten.prelu.default:
        slopes = node.args[1]
        assert isinstance(slopes, fx.Node)
        value = tensor(graph, str(slopes.target))
        if value.numel() > 1:
            set_tensor(graph, str(slopes.target), spread(value, 0, layout))
