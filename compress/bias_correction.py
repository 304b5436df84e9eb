"""Bias correction: the mean error that rounding leaves in each output channel is taken out through the bias.

Empirical form of Nagel et al. (2019): layer after layer in execution order, each measured behind the corrected ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from compress.biases import give_biases
from compress.compressed import CompressedModel
from compress.graph import bias_name, channel_dimension, layer_nodes, set_tensor, tensor, weight_name
from compress.statistics import observe


def correct_biases(
    model: CompressedModel, inputs: Tensor, reference: fx.GraphModule | None = None, *,
    expected: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Correct the biases of `model` in place on calibration `inputs` ([N, C, H, W]); layers without a bias get one.

    `reference` is the float graph whose layer outputs are the aim; by default the model's own graph, which is right
    only while that graph is still float: pass it when correcting again or after loading. `expected`: the aim itself, as
    `output_means` of all layers gives it on the same `inputs`, for who corrects many models of one network. A weight
    that is called several times gets the mean correction of its calls. All of `inputs` is in memory at once. Engines
    store biases as int32 at scale s_x * s_w, so a mean error of up to half of that remains.
    """
    give_biases(model.graph, set(model.weights))
    layers = [node for _, node in layer_nodes(model.graph) if weight_name(node) in model.weights]
    if expected is None:
        expected = output_means(model.graph if reference is None else reference, inputs, {node.name for node in layers})
    _sweep(model, inputs, layers, {node.name: expected[node.name] for node in layers})


def output_means(graph_module: fx.GraphModule, inputs: Tensor, wanted: set[str]) -> dict[str, Tensor]:
    """Mean over calibration data and positions of each wanted tensor, [C] in float64, by node name.

    Channels of what is no layer are its second dimension.
    """
    dimensions = {node.name: channel_dimension(node) for _, node in layer_nodes(graph_module)}
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def see(name: str, value: Tensor) -> None:
        flat = value.double().movedim(dimensions.get(name, 1), 0).flatten(1)
        sums[name] = sums.get(name, torch.zeros(())) + flat.sum(1)
        counts[name] = counts.get(name, 0) + flat.shape[1]

    observe(graph_module, inputs, wanted, see, "measuring output means")
    return {name: total / counts[name] for name, total in sums.items()}


class _Sweep(fx.Interpreter):
    """Runs all calibration data through the simulated network once, correcting each layer as it is reached.

    Because every layer sees the outputs of corrected layers, one pass is the sequential procedure.
    """

    def __init__(self, module: fx.GraphModule, expected: dict[str, Tensor]) -> None:
        super().__init__(module)
        self.expected = expected
        self.shifts: dict[str, list[Tensor]] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name not in self.expected or not isinstance(value, Tensor):
            return value
        channels = channel_dimension(n) % value.dim()
        found = value.double().movedim(channels, 0).flatten(1).mean(1)
        shift = (self.expected[n.name] - found).to(value.dtype)
        self.shifts.setdefault(n.name, []).append(shift)
        return value + shift.reshape(-1, *[1] * (value.dim() - 1 - channels))


def _sweep(model: CompressedModel, inputs: Tensor, layers: list[fx.Node], expected: dict[str, Tensor]) -> None:
    sweep = _Sweep(model.simulate(), expected)
    with torch.inference_mode():
        sweep.run(inputs)
    shifts: dict[str, list[Tensor]] = {}
    for node in layers:
        bias = bias_name(node)
        assert bias is not None
        shifts.setdefault(bias, []).extend(sweep.shifts.get(node.name, []))
    for bias, found in shifts.items():
        mean = torch.stack(found).mean(0)
        set_tensor(model.graph, bias, (tensor(model.graph, bias) + mean).clone())
