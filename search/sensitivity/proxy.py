"""A cheap guess of each sensitivity from the output's answer to rounding noise: one backward pass per crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from compress.equalization import by_output, layer_groups
from compress.graph import layer_nodes, tensor, weight_name
from compress.noise import NoiseModel, noise_model
from hw_profiles import DType
from search.sensitivity.precision import Alternatives
from search.sensitivity.sensitivities import Option

_DIGITS = {DType.BF16.value: 8, DType.FP16.value: 11}
"""Significant bits of short floats, the hidden one included."""

_LOG_UNIFORM = 0.541
"""Mean of 1 / m^2 for significands m in [1, 2) whose logarithm is uniform."""


def proxy_errors(alternatives: Alternatives, inputs: Tensor, options: Sequence[Option]) -> dict[Option, float]:
    """Predicted mean squared output error of each option, [N, C, H, W] `inputs` being a few calibration crops.

    Rounding is independent noise: of step^2 / 12 for an activation, of what rounding did to a weight; clipping is left
    out. Second order in the noise (compress.noise), so good for ranking, not for values.
    """
    graph = alternatives.float_graph
    noise = noise_model(graph, inputs)
    nodes = dict(layer_nodes(graph))
    ranges = {p: {s.tensor.name: s for s in model.sites()} for p, model in alternatives.models.items()}
    found = {}
    for layer, precision in options:
        node = nodes[layer]
        source = node.args[0]
        assert isinstance(source, fx.Node)
        exact = tensor(graph, weight_name(node)).double()
        if precision in alternatives.models:
            model = alternatives.models[precision]
            weight = model.weights[weight_name(node)].values.double()
            variance = torch.zeros_like(noise.power[source.name])
            if source.name in ranges[precision]:
                variance += float(model.activations[source.name].scale) ** 2 / 12
            found[layer, precision] = _error(node, exact, weight - exact, variance, noise, 0.0)
        else:
            relative = _LOG_UNIFORM * 2.0 ** (2 - 2 * _DIGITS[precision]) / 12
            zeros = torch.zeros_like(exact)
            power = noise.power[source.name] * relative
            found[layer, precision] = _error(node, exact, zeros, power, noise, 2 * relative)
    return found


def _error(node: fx.Node, exact: Tensor, change: Tensor, variance: Tensor, noise: NoiseModel, relative: float) -> float:
    """Noise at each output channel times the network's answer to it; `relative`: noise over the signal's power."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    count = layer_groups(node)
    weights, changes = (by_output(node, w).square().sum(2) for w in (exact, change))
    entering, power = (v.reshape(count, 1, -1) for v in (variance, noise.power[source.name]))
    shape = (count, -1, weights.shape[1])
    weights, changes = weights.reshape(shape), changes.reshape(shape)
    rounded = (weights * (entering + relative * power) + changes * power).sum(2).reshape(-1)
    return float((rounded * noise.outputs[node.name]).sum())


def screen(proxies: Mapping[Option, float], share: float) -> tuple[Option, ...]:
    """The options worth measuring: those that make up `share` of the predicted error of their precision, in order."""
    chosen: set[Option] = set()
    for precision in dict.fromkeys(p for _, p in proxies):
        ranked = sorted(
            (option for option in proxies if option[1] == precision), key=lambda option: (-proxies[option], option)
        )
        limit, reached = share * sum(proxies[option] for option in ranked), 0.0
        for option in ranked:
            if reached >= limit:
                break
            chosen.add(option)
            reached += proxies[option]
    return tuple(option for option in proxies if option in chosen)
