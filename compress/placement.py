"""Where quantisers sit: which tensors are quantised, and which of their consumers read the quantised value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from compress.graph import input_node, is_layer, layer_nodes, output_node
from compress.plan import Placement, Plan
from compress.quantizers import QuantFormat

aten = torch.ops.aten

FUSED_ACTIVATIONS = (aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default)
"""Activations that runtimes fold into an integer convolution: the quantiser goes behind them, not between."""

ELEMENTWISE = (
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.cat.default, aten.leaky_relu.default, aten.sigmoid.default,
    aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.max_pool2d.default, aten.tanh.default,
    aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim,
)  # fmt: skip
"""Operators that have integer kernels in ONNX Runtime when all their tensors are quantised."""


Put = Callable[[fx.Node, QuantFormat, list[fx.Node]], None]


@dataclass(frozen=True)
class Site:
    """One quantised activation tensor: the node that makes it, its format, and the consumers behind the quantiser."""

    tensor: fx.Node
    form: QuantFormat
    consumers: tuple[fx.Node, ...]


def place(graph_module: fx.GraphModule, plan: Plan) -> tuple[Site, ...]:
    """The quantised tensors of a graph under a plan, in execution order. A pure function of its arguments."""
    decided = {n: plan.layers[name] for name, n in layer_nodes(graph_module)}
    planned = {n: layer for n, layer in decided.items() if layer.activation is not None}
    sites: dict[fx.Node, tuple[QuantFormat, dict[fx.Node, None]]] = {}

    def put(tensor: fx.Node, form: QuantFormat, consumers: list[fx.Node]) -> None:
        known = sites.setdefault(tensor, (form, {}))
        known[1].update(dict.fromkeys(consumers))

    for node, layer in planned.items():
        assert layer.activation is not None
        source = node.args[0]
        assert isinstance(source, fx.Node)
        put(source, layer.activation, [node])
        if plan.placement is not Placement.INPUTS:
            result = quantized_output(node)
            put(result, layer.activation, list(result.users))
    if plan.placement is Placement.EVERYTHING and planned:
        form = next(layer.activation for layer in planned.values() if layer.activation is not None)
        _place_everything(graph_module, form, put)
    order = {node: i for i, node in enumerate(graph_module.graph.nodes)}
    return tuple(
        Site(tensor, form, tuple(users)) for tensor, (form, users) in sorted(sites.items(), key=lambda s: order[s[0]])
    )


def quantized_output(node: fx.Node) -> fx.Node:
    """The tensor behind a layer that its runtime can requantise to: the layer's, or its only activation's."""
    users = list(node.users)
    if len(users) == 1 and users[0].target in FUSED_ACTIVATIONS:
        return users[0]
    return node


def _place_everything(graph_module: fx.GraphModule, form: QuantFormat, put: Put) -> None:
    """Quantise the elementwise operators whose tensor operands are all 4-D activations, and the network output."""
    result = output_node(graph_module).args[0]
    for node in graph_module.graph.nodes:
        if node.target not in ELEMENTWISE or any(
            is_layer(source) and len(source.users) == 1 and node.target in FUSED_ACTIVATIONS
            for source in node.all_input_nodes
        ):
            continue
        for source in node.all_input_nodes:
            if is_activation(source):
                put(source, form, list(source.users))
        put(node, form, list(node.users))
    if isinstance(result, fx.Node) and result is not input_node(graph_module):
        put(result, form, list(result.users))


def is_activation(node: fx.Node) -> bool:
    """Whether a node holds a float activation (not a size, not a parameter)."""
    value = node.meta.get("val")
    return node.op in {"placeholder", "call_function"} and isinstance(value, torch.Tensor) and value.is_floating_point()
