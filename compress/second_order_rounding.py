"""Rounding of weights by the damage to the layer's output: what one weight loses is made up for by those behind it.

Column by column with the inverse Hessian of the layer's squared output error, H = X X^T over calibration data: GPTQ
(Frantar et al., 2022, arXiv 2210.17323), after Optimal Brain Surgeon. Scales and zero points stay as they are. Above
all it keeps the sums of a filter's rounding errors small where inputs are correlated: in narrow networks at few bits
these errors of the gain, not noise, are what costs pictures.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, fx

from compress.compressed import CompressedModel, QuantizedWeight
from compress.equalization import layer_groups
from compress.graph import aten, layer_nodes, tensor, weight_name
from compress.hessian import damping, inverse_factor
from compress.input_patches import patches
from compress.statistics import observe

DAMPING = 1e-2
"""Added to the Hessian, relative to its mean diagonal, as published."""

Factors = dict[str, Tensor]
"""For each weight the upper Cholesky factor of its inverse Hessian, [groups, K, K] in float64."""


def factors(graph: fx.GraphModule, inputs: Tensor, weights: set[str]) -> Factors:
    """Of the named weights in a float graph on `inputs` [N, C, H, W]; of transposed convolutions there is none."""
    readers: dict[str, list[fx.Node]] = {}
    for _, node in layer_nodes(graph):
        source = node.args[0]
        if weight_name(node) in weights and node.target is not aten.conv_transpose2d.input:
            assert isinstance(source, fx.Node)
            readers.setdefault(source.name, []).append(node)
    sums: dict[str, Tensor] = {}

    def see(name: str, value: Tensor) -> None:
        for node in readers[name]:
            weight = tensor(graph, weight_name(node))
            count = layer_groups(node)
            parts = [patches(node, weight, value, count, group) for group in range(count)]
            found = torch.stack([(part @ part.T).double() for part in parts])
            sums[weight_name(node)] = sums.get(weight_name(node), torch.zeros(())) + found

    observe(graph, inputs, set(readers), see, "seeing how inputs of layers go together")
    return {name: inverse_factor(found + damping(found, DAMPING)) for name, found in sums.items()}


def round_weights(model: CompressedModel, graph: fx.GraphModule, known: Factors) -> None:
    """Replace the integers of all weights of `model` that `known` has a factor of; `graph` holds their real values."""
    for name, weight in model.weights.items():
        if name in known and not weight.form.is_fp8:
            model.weights[name] = rounded(tensor(graph, name), weight, known[name])


def rounded(real: Tensor, weight: QuantizedWeight, factor: Tensor) -> QuantizedWeight:
    """The same weight with other integers; what is zero in `real` counts as pruned and stays zero."""
    rows, groups = real.shape[0], len(factor)
    left = real.detach().double().reshape(groups, rows // groups, -1).clone()
    pruned = left == 0
    scale, zero = (
        value.double().expand(real.shape).reshape(left.shape) for value in weight.params.broadcast(real.dim())
    )
    integers = torch.empty_like(left)
    for column in range(left.shape[2]):
        step, middle = scale[:, :, column], zero[:, :, column]
        found = (torch.round(left[:, :, column] / step) + middle).clamp(weight.form.qmin, weight.form.qmax)
        found = torch.where(pruned[:, :, column], middle, found)
        integers[:, :, column] = found
        lost = (left[:, :, column] - (found - middle) * step) / factor[:, column, column, None]
        left[:, :, column:] -= lost[:, :, None] * factor[:, None, column, column:]
    return replace(weight, integers=integers.reshape(real.shape).to(weight.integers.dtype))
