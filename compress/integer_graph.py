"""The compressed network on integers: quantisers round to integers, layers add integers up, scales come after.

This is what integer hardware does, and what a QONNX file says. `CompressedModel.simulate()` multiplies the scales
into the operands of a layer instead; the sums of its products then round in float32, in an order that libraries choose.
Sums of integers are exact in float32 up to 2^24 in any order, so two runtimes give the same bits here.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from compress import ops as _ops  # registers the custom operators
from compress.compressed import CompressedModel, QuantizedWeight
from compress.exportable import CONSTANTS
from compress.graph import add_buffer, clone, layer_nodes, rebuild, weight_name
from compress.placement import Site
from compress.quantizers import QuantFormat, QuantParams

aten = torch.ops.aten
quant = torch.ops.bitwright.quant.default

EXACT_SUM = 2**24
"""Largest sum of integers up to which float32 holds every integer."""

__all__ = ["EXACT_SUM", "integer_graph", "largest_sums", "quant"]
assert _ops is not None


def integer_graph(model: CompressedModel) -> fx.GraphModule:
    """The network with each quantiser as the operator `quant` at scale 1, any plan; input and output as the model's.

    An activation x becomes quant(x / s_x), rounded first where it has a zero point: the zero point is then added to an
    integer, which is exact. A quantised layer reads these integers less the zero point and those of its weight, also
    behind a `quant`; its sums get the integer bias added and are multiplied by s_x * s_w. Whatever else reads the
    activation reads it times s_x. Against `simulate()`, floats differ in their last bits, and a value on a rounding
    boundary may fall to the other side; where all scales are powers of two both compute the same bits.
    """
    model.plan.require_integers("the integer graph")
    module = clone(model.graph)
    nodes = {node.name: node for node in module.graph.nodes}
    biases = model.integer_biases()
    layers = {node.name for name, node in layer_nodes(model.graph) if model.plan.layers[name].quantized}
    for site in model.sites():
        params = model.activations[site.tensor.name]
        integers = _write_quantizer(module, nodes[site.tensor.name], site, params)
        others = [consumer.name for consumer in site.consumers if consumer.name not in layers]
        if others:
            scale = _buffer(module, integers, f"activations.{site.tensor.name}.scale", params.scale)
            real = _after(module, scale, aten.mul.Tensor, (integers, scale))
            for name in others:
                nodes[name].replace_input_with(nodes[site.tensor.name], real)
        for consumer in site.consumers:
            if consumer.name in layers:
                node, weight = nodes[consumer.name], model.weights[weight_name(consumer)]
                node.replace_input_with(nodes[site.tensor.name], integers)
                nodes[consumer.name] = _write_layer(module, node, weight, biases.get(consumer.name), params.scale)
    rebuild(module)
    return module


def largest_sums(model: CompressedModel) -> dict[str, int]:
    """For each quantised layer a sum that its integers cannot exceed, whatever the input; in network order.

    Up to `EXACT_SUM` the layer is exact in float32, and log2 of it, plus a sign, is the width of its accumulator.
    """
    model.plan.require_integers("the width of an accumulator")
    inputs = {consumer.name: site for site in model.sites() for consumer in site.consumers}
    found = {}
    for name, node in layer_nodes(model.graph):
        if not model.plan.layers[name].quantized:
            continue
        weight, site = model.weights[weight_name(node)], inputs[node.name]
        zero = int(model.activations[site.tensor.name].zero_point)
        reach = max(site.form.qmax - zero, zero - site.form.qmin)
        _, zeros = weight.params.broadcast(weight.integers.dim())
        integers = (weight.integers.to(torch.int64) - zeros).abs()
        if node.target is aten.conv_transpose2d.input:
            # [in, out / groups, kh, kw]: the inputs of all groups are counted as if they were those of one.
            integers = integers.transpose(0, 1)
        found[name] = reach * int(integers.flatten(1).sum(1).max())
    return found


def _write_quantizer(module: fx.GraphModule, source: fx.Node, site: Site, params: QuantParams) -> fx.Node:
    """The integers of an activation, less its zero point, behind the node that makes it."""
    path = f"activations.{site.tensor.name}"
    # The fused kernels that train and simulate multiply by 1 / scale in float32: dividing would round otherwise.
    inverse = _buffer(module, source, f"{path}.inverse_scale", 1.0 / params.scale)
    current = _after(module, inverse, aten.mul.Tensor, (source, inverse))
    if bool(params.zero_point != 0):
        current = _after(module, current, aten.round.default, (current,))
    return _quant(module, current, current, path, params.zero_point, site.form)


def _write_layer(
    module: fx.GraphModule, node: fx.Node, weight: QuantizedWeight, bias: tuple[Tensor, QuantParams] | None,
    activation_scale: Tensor,
) -> fx.Node:  # fmt: skip
    """Make a layer read integers, and add its bias and its scale behind it; returns the node with its real output."""
    name = weight_name(node)
    constant = node.args[1]
    assert isinstance(constant, fx.Node)
    _, zeros = weight.params.broadcast(weight.integers.dim())
    values = (weight.integers.to(torch.int32) - zeros).to(torch.float32)
    integers = _buffer(module, constant, f"{CONSTANTS}{name}.integers", values)
    node.update_arg(1, _quant(module, integers, integers, f"{CONSTANTS}{name}", zeros, weight.form))
    users = list(node.users)
    shape = (-1,) if node.target is aten.linear.default else (-1, 1, 1)
    last = node
    if bias is not None:
        bias_node = node.args[2]
        assert isinstance(bias_node, fx.Node)
        node.update_arg(2, None)
        values = bias[0].to(torch.float32).reshape(shape)
        added = _buffer(module, last, f"{CONSTANTS}{bias_node.target}.{node.name}.integers", values)
        last = _after(module, added, aten.add.Tensor, (last, added))
    scale = activation_scale * weight.params.scale
    if scale.numel() > 1:
        scale = scale.reshape(shape)
    scales = _buffer(module, last, f"{CONSTANTS}{name}.{node.name}.scale", scale)
    last = _after(module, scales, aten.mul.Tensor, (last, scales))
    for user in users:
        user.replace_input_with(node, last)
    return last


def _quant(
    module: fx.GraphModule, after: fx.Node, x: fx.Node, path: str, zero_point: Tensor, form: QuantFormat
) -> fx.Node:
    """A `quant` of `x` at scale 1; its constants are `<path>.one`, `.zero_point` and `.bits`."""
    arguments = []
    for leaf, value in (
        ("one", torch.tensor(1.0)),
        ("zero_point", zero_point.to(torch.float32)),
        ("bits", torch.tensor(float(form.used_bits))),
    ):
        after = _buffer(module, after, f"{path}.{leaf}", value)
        arguments.append(after)
    return _after(module, after, quant, (x, *arguments, form.signed, form.signed and form.symmetric))


def _buffer(module: fx.GraphModule, after: fx.Node, name: str, value: Tensor) -> fx.Node:
    add_buffer(module, name, value.contiguous().clone())
    with module.graph.inserting_after(after):
        return module.graph.get_attr(name)


def _after(module: fx.GraphModule, after: fx.Node, target: object, arguments: tuple[object, ...]) -> fx.Node:
    with module.graph.inserting_after(after):
        return module.graph.call_function(target, arguments)  # type: ignore[arg-type]
