"""Biases for layers that were built without one."""

from __future__ import annotations

import torch
from torch import fx

from compress.graph import add_buffer, bias_name, channel_dimension, layer_nodes, rebuild, tensor, weight_name


def new_bias_name(weight: str) -> str:
    """Qualified name of the bias that `give_biases` adds next to a weight."""
    return weight.removesuffix("weight") + "bias"


def give_biases(graph_module: fx.GraphModule, weights: set[str]) -> None:
    """Give the layers of these weights that have no bias one of zeros, shape [out], in place."""
    given: dict[str, fx.Node] = {}
    for _, node in layer_nodes(graph_module):
        name = weight_name(node)
        if name not in weights or bias_name(node) is not None:
            continue
        source = node.args[1]
        assert isinstance(source, fx.Node)
        if name not in given:
            zeros = torch.zeros(_outputs(node), dtype=tensor(graph_module, name).dtype)
            add_buffer(graph_module, new_bias_name(name), zeros)
            with graph_module.graph.inserting_after(source):
                given[name] = graph_module.graph.get_attr(new_bias_name(name))
            given[name].meta["val"] = zeros
        node.args = (*node.args[:2], given[name], *node.args[3:])
    if given:
        rebuild(graph_module)


def _outputs(node: fx.Node) -> int:
    """Output channels (features) of a layer."""
    return int(node.meta["val"].shape[channel_dimension(node)])
