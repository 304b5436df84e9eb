"""Channel factors that minimise the predicted output error of 8-bit layers, by gradient descent on their logarithms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.foundation.progress import track
from compress.channel_groups import Groups, channel_groups
from compress.equalization import LARGEST_FACTOR, STRENGTHS, by_output, equalize, layer_groups, rescale
from compress.graph import layer_nodes, tensor, weight_name
from compress.noise import NoiseModel, noise_model
from compress.quantizers import A8, W8, QuantFormat
from compress.statistics import TensorStatistics

STEPS = 200
RATE = 0.05


@dataclass(frozen=True)
class Balance:
    """The rewritten graph and the predicted mean squared output error before and after."""

    graph: fx.GraphModule
    before: float
    after: float


def balance(
    graph_module: fx.GraphModule,
    statistics: dict[str, TensorStatistics],
    inputs: Tensor,
    activation: QuantFormat = A8,
    weight: QuantFormat = W8,
    steps: int = STEPS,
) -> Balance:
    """A new graph of the same function whose channels are scaled to lose least, predicted from calibration `inputs`.

    `statistics` holds the tensors of `layer_inputs`. Needs no labels and no training of weights.
    """
    groups = channel_groups(graph_module)
    loss = _Predicted(graph_module, groups, statistics, noise_model(graph_module, inputs), activation, weight)
    factors = torch.zeros(groups.count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([factors], lr=RATE)
    limit = math.log(LARGEST_FACTOR)
    best, kept = math.inf, factors.detach().clone()
    before = float(loss(factors.detach()))
    for step in track(list(range(steps)), "balancing channels"):
        for options in optimizer.param_groups:
            options["lr"] = RATE * (1.0 - step / steps) + 1e-3
        value = loss(factors)
        found = float(value.detach())
        if found < best:
            best, kept = found, factors.detach().clone()
        (factors.grad,) = torch.autograd.grad(torch.log(value), factors)
        optimizer.step()
        with torch.no_grad():
            factors.clamp_(-limit, limit)
    return Balance(rescale(graph_module, groups, kept), before, best)


class _Predicted:
    """Predicted mean squared output error as a function of the group factors."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        groups: Groups,
        statistics: dict[str, TensorStatistics],
        noise: NoiseModel,
        activation: QuantFormat,
        weight: QuantFormat,
    ) -> None:
        self.groups = groups
        self.steps = float(activation.qmax - activation.qmin)
        self.weight_steps = float(weight.qmax)
        self.tensors = {
            name: (statistics[name].channel_low.double(), statistics[name].channel_high.double(), answer)
            for name, answer in noise.inputs.items()
            if name in statistics and name in groups.group
        }
        self.layers: list[tuple[str, Tensor, Tensor, Tensor]] = []
        for _, node in layer_nodes(graph_module):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            if source.name not in self.tensors:
                continue
            rows = by_output(node, tensor(graph_module, weight_name(node)).double())
            count = layer_groups(node)
            reach = rows.abs().amax(2).reshape(count, -1, rows.shape[1])
            power = noise.power[source.name] * rows.shape[2]
            self.layers.append((source.name, reach, power.reshape(count, 1, -1), noise.outputs[node.name]))

    def __call__(self, log_scales: Tensor) -> Tensor:
        """Sum over all layers of rounding noise of inputs and of weights, times the output's answer to it."""
        scales = self.groups.scales(log_scales)
        total = torch.zeros((), dtype=torch.float64)
        for name, (low, high, answer) in self.tensors.items():
            s = scales[name]
            width = (high / s).amax().clamp(min=0.0) - (low / s).amin().clamp(max=0.0)
            total = total + (width / self.steps).square() / 12 * (answer * s.square()).sum()
        for name, reach, power, answer in self.layers:
            s = scales[name].reshape(power.shape)
            step = (reach * s).amax(2) / self.weight_steps
            noise = step.square() / 12 * (power / s.square()).sum(2)
            total = total + (noise.reshape(-1) * answer).sum()
        return total


@dataclass(frozen=True)
class Choice:
    """The graph that was kept, its strength, and the measured error of every strength."""

    graph: fx.GraphModule
    errors: dict[float, float]
    strength: float


def choose_strength(
    graph_module: fx.GraphModule,
    statistics: dict[str, TensorStatistics],
    error: Callable[[fx.GraphModule], float],
    strengths: tuple[float, ...] = STRENGTHS,
) -> Choice:
    """Equalise at each strength and keep the graph with the smallest `error`, which simulates and measures a graph."""
    graphs = {strength: equalize(graph_module, statistics, strength) for strength in strengths}
    errors = {strength: error(graph) for strength, graph in track(list(graphs.items()), "choosing the strength")}
    chosen = min(errors, key=lambda strength: (errors[strength], strength))
    return Choice(graphs[chosen], errors, chosen)
