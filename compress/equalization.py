"""Cross-layer range balancing: rescale channels so that tensors with one scale for all channels lose less in 8 bits.

The rewrite divides channel c of a tensor by s_c > 0 and absorbs s_c in the weights and biases around it; the function
stays the same up to float rounding. The factor follows the geometric rule s = a ** strength / w ** (1 - strength) of
SmoothQuant (Xiao et al., 2023), with a the channel's share of its tensors' range and w its share of the weights' range.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from bitwright.foundation.errors import GraphError
from compress.channel_groups import Groups, channel_groups
from compress.graph import aten, bias_name, clone, layer_nodes, set_tensor, tensor, weight_name
from compress.statistics import TensorStatistics

LARGEST_FACTOR = 32.0
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def layer_inputs(graph_module: fx.GraphModule) -> set[str]:
    """Names of the tensors that layers read: what equalisation needs statistics of."""
    return {node.args[0].name for _, node in layer_nodes(graph_module) if isinstance(node.args[0], fx.Node)}


def equalize(
    graph_module: fx.GraphModule,
    statistics: dict[str, TensorStatistics],
    strength: float,
    powers_of_two: bool = False,
) -> fx.GraphModule:
    """A new graph of the same function with balanced channels; the input graph is untouched.

    `statistics` holds at least the tensors of `layer_inputs`. `strength` in [0, 1]: 0 changes nothing, 1 balances the
    activations alone, between them weight columns share the burden.
    """
    if not 0.0 <= strength <= 1.0:
        raise GraphError(f"the strength of equalisation is in [0, 1], not {strength}")
    if strength == 0.0:
        return clone(graph_module)
    groups = channel_groups(graph_module)
    return rescale(graph_module, groups, balancing_factors(graph_module, groups, statistics, strength, powers_of_two))


def rescale(graph_module: fx.GraphModule, groups: Groups, log_scales: Tensor) -> fx.GraphModule:
    """Divide each group's channels by its factor, in a copy. `log_scales`: [groups.count], natural logarithms."""
    result = clone(graph_module)
    scales = groups.scales(log_scales)
    done: set[str] = set()
    for _, node in layer_nodes(result):
        name = weight_name(node)
        if name in done:
            continue
        done.add(name)
        source = node.args[0]
        assert isinstance(source, fx.Node)
        ones = torch.ones(1, dtype=torch.float64)
        outer, inner = scales.get(node.name, ones), scales.get(source.name, ones)
        weight = tensor(result, name)
        factors = weight_view(node, inner, weight) / output_view(node, outer, weight)
        set_tensor(result, name, (weight.double() * factors).to(weight.dtype))
        bias = bias_name(node)
        if bias is not None:
            value = tensor(result, bias)
            set_tensor(result, bias, (value.double() / outer).to(value.dtype))
    return result


def is_transposed(node: fx.Node) -> bool:
    """Whether a layer is a transposed convolution, whose weight is [in, out / groups, kH, kW]."""
    return node.target is aten.conv_transpose2d.input


def layer_groups(node: fx.Node) -> int:
    """Groups of a convolution, 1 of a linear layer."""
    if node.target is aten.linear.default:
        return 1
    position = 7 if is_transposed(node) else 6
    position -= int(is_transposed(node))
    value = node.args[position] if len(node.args) > position else node.kwargs.get("groups", 1)
    if not isinstance(value, int):
        raise GraphError(f"{node.name}: the number of groups {value!r} is not a constant")
    return value


def weight_view(node: fx.Node, inner: Tensor, weight: Tensor) -> Tensor:
    """One value per input channel, [in] or [1], broadcast to the layer's weight."""
    if inner.numel() == 1:
        return inner.reshape([1] * weight.dim())
    if is_transposed(node):
        return inner.reshape(-1, *[1] * (weight.dim() - 1))
    groups = layer_groups(node)
    rows = inner.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def output_view(node: fx.Node, outer: Tensor, weight: Tensor) -> Tensor:
    """One value per output channel, [out] or [1], broadcast to the layer's weight."""
    if outer.numel() == 1:
        return outer.reshape([1] * weight.dim())
    if not is_transposed(node):
        return outer.reshape(-1, *[1] * (weight.dim() - 1))
    groups = layer_groups(node)
    rows = outer.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def balancing_factors(
    graph_module: fx.GraphModule,
    groups: Groups,
    statistics: dict[str, TensorStatistics],
    strength: float,
    powers_of_two: bool = False,
) -> Tensor:
    """Logarithm of each group's factor, [groups.count], by the geometric rule, clipped to LARGEST_FACTOR around 1."""
    activation = torch.full((groups.count,), -math.inf, dtype=torch.float64)
    column = activation.clone()
    for _, node in layer_nodes(graph_module):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if source.name not in statistics or source.name not in groups.group:
            continue
        index, exponent = groups.group[source.name], groups.exponent[source.name]
        free = index >= 0
        seen = statistics[source.name]
        reach = torch.maximum(-seen.channel_low, seen.channel_high).double()
        share = torch.log(reach / reach.max().clamp(min=1e-30)).clamp(min=-2 * math.log(LARGEST_FACTOR)) / exponent
        activation.scatter_reduce_(0, index[free], share[free], "amax")
        used = torch.log(column_share(node, tensor(graph_module, weight_name(node)))) / exponent
        column.scatter_reduce_(0, index[free], used[free], "amax")
    known = torch.isfinite(activation)
    factors = torch.zeros(groups.count, dtype=torch.float64)
    factors[known] = strength * activation[known] - (1.0 - strength) * column[known]
    limit = math.log(LARGEST_FACTOR)
    if known.any():
        factors[known] = (factors[known] - factors[known].median()).clamp(-limit, limit)
    if powers_of_two:
        factors = torch.round(factors / math.log(2.0)) * math.log(2.0)
    return factors


def column_share(node: fx.Node, weight: Tensor) -> Tensor:
    """Largest weight of each input channel relative to its output channel's largest, [in], in (0, 1]."""
    rows = by_output(node, weight).abs().double()
    relative = rows / rows.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
    groups = layer_groups(node)
    per_group = relative.amax(2).reshape(groups, -1, rows.shape[1]).amax(1)
    return per_group.reshape(-1).clamp(min=1e-6)


def by_output(node: fx.Node, weight: Tensor) -> Tensor:
    """A layer's weight as [out, in / groups, taps]."""
    if is_transposed(node):
        groups = layer_groups(node)
        rows = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).transpose(1, 2)
        return rows.reshape(-1, weight.shape[0] // groups, rows.shape[-1])
    return weight.reshape(weight.shape[0], weight.shape[1], -1)
