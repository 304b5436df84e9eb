"""The graph that is handed to the exporter: integer constants and quantise/dequantise pairs as explicit operators."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from compress import ops as _ops  # registers the custom operators
from compress.compressed import CompressedModel, QuantizedWeight
from compress.graph import add_buffer, clone, layer_nodes, rebuild, weight_name
from compress.placement import Site
from compress.quantizers import QuantFormat, QuantParams, container

quantize_dequantize = torch.ops.bitwright.quantize_dequantize.default
dequantize = torch.ops.bitwright.dequantize.default
dequantize_blocks = torch.ops.bitwright.dequantize_blocks.default
aten = torch.ops.aten

CONSTANTS = "constants."
"""Prefix of the buffers that hold integer constants."""

__all__ = ["CONSTANTS", "exportable"]
assert _ops is not None


def exportable(model: CompressedModel, *, quantize_bias: bool = True) -> fx.GraphModule:
    """The model with every quantiser written out.

    Weights become `<weight name>.integers` behind a dequantise, activations pass a quantise/dequantise pair (behind a
    clamp where the format is narrower than its 8-bit container), biases of integer layers become int32 at scale
    s_x * s_w if `quantize_bias` (CPU runtimes; TensorRT wants them in float). Computes what `simulate()` computes.
    """
    module = clone(model.graph)
    nodes = {node.name: node for node in module.graph.nodes}
    if quantize_bias:
        _write_biases(model, module)
    for name, weight in model.weights.items():
        for user in [n for _, n in layer_nodes(module) if weight_name(n) == name]:
            constant = user.args[1]
            assert isinstance(constant, fx.Node)
            if weight.params.block is not None:
                value = _blocks(module, user, name, weight)
            else:
                axis = weight.params.axis or 0
                value = _constant(module, user, name, weight.integers, weight.params, axis)
            user.replace_input_with(constant, value)
    for site in model.sites():
        _write_activation(module, nodes, site, model.activations[site.tensor.name])
    rebuild(module)
    return module


def _write_biases(model: CompressedModel, module: fx.GraphModule) -> None:
    nodes = {node.name: node for node in module.graph.nodes}
    for name, bias in model.integer_biases().items():
        node = nodes[name]
        bias_node = node.args[2]
        assert isinstance(bias_node, fx.Node)
        node.replace_input_with(bias_node, _constant(module, node, f"{bias_node.target}.{name}", *bias, 0))


def _constant(
    module: fx.GraphModule, before: fx.Node, name: str, integers: Tensor, params: QuantParams, axis: int
) -> fx.Node:
    """A dequantised constant in front of a node; buffers are `<name>.integers`, `.scale` and `.zero_point`."""
    for leaf, value in (
        ("integers", integers),
        ("scale", params.scale),
        ("zero_point", params.zero_point.to(integers.dtype)),
    ):
        add_buffer(module, f"{CONSTANTS}{name}.{leaf}", value.contiguous())
    with module.graph.inserting_before(before):
        parts = [module.graph.get_attr(f"{CONSTANTS}{name}.{leaf}") for leaf in ("integers", "scale", "zero_point")]
        return module.graph.call_function(dequantize, (*parts, axis))


def _blocks(module: fx.GraphModule, before: fx.Node, name: str, weight: QuantizedWeight) -> fx.Node:
    """A constant in blocks, dequantised in front of a node; buffers are `<name>.integers` and `.scale`."""
    for leaf, value in (("integers", weight.integers), ("scale", weight.params.scale)):
        add_buffer(module, f"{CONSTANTS}{name}.{leaf}", value.contiguous())
    with module.graph.inserting_before(before):
        parts = [module.graph.get_attr(f"{CONSTANTS}{name}.{leaf}") for leaf in ("integers", "scale")]
        return module.graph.call_function(dequantize_blocks, (*parts, weight.params.block))


def _fills_container(form: QuantFormat) -> bool:
    """Whether QuantizeLinear's own saturation is that of the format."""
    if form.is_fp8:
        return True
    limits = torch.iinfo(container(form))
    return (form.qmin, form.qmax) == (limits.min, limits.max)


def _write_activation(module: fx.GraphModule, nodes: dict[str, fx.Node], site: Site, params: QuantParams) -> None:
    source, form = nodes[site.tensor.name], site.form
    path = f"activations.{site.tensor.name}"
    add_buffer(module, f"{path}.scale", params.scale)
    add_buffer(module, f"{path}.zero_point", params.zero_point.to(container(form)))
    with module.graph.inserting_after(source):
        last = anchor = module.graph.get_attr(f"{path}.scale")
    with module.graph.inserting_after(anchor):
        last = module.graph.get_attr(f"{path}.zero_point")
    zero, current = last, source
    if not _fills_container(form):
        low, high = (float((q - params.zero_point) * params.scale) for q in (form.qmin, form.qmax))
        with module.graph.inserting_after(last):
            current = last = module.graph.call_function(aten.clamp.default, (source, low, high))
    with module.graph.inserting_after(last):
        pair = module.graph.call_function(quantize_dequantize, (current, anchor, zero))
    for consumer in site.consumers:
        nodes[consumer.name].replace_input_with(source, pair)
