"""A first-order model of what rounding costs: how strongly the network's output answers to noise in each channel.

For independent noise of variance v in a channel, the squared output error is v times the squared Jacobian, summed over
positions and outputs. Random-sign probes give its expectation with one backward pass (Hutchinson, 1990).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.foundation.progress import track
from compress.graph import is_layer


@dataclass(frozen=True)
class NoiseModel:
    """Per layer-input tensor and per layer, by node name; all per output value.

    `inputs`: [C], mean squared output error per unit of noise variance in a tensor, read by layers alone. `outputs`:
    the same for a layer's output, [O]. `power`: [C], mean square of a layer-input tensor.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    power: dict[str, Tensor]


class _Probing(fx.Interpreter):
    """Adds zero tensors where noise would enter, so that backward leaves the Jacobian's products in their gradients."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.power: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        if not is_layer(n):
            return super().run_node(n)
        source = n.args[0]
        assert isinstance(source, fx.Node)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value = args[0]
        if source.name not in self.inputs:
            self.inputs[source.name] = torch.zeros_like(value, requires_grad=True)
            self.power[source.name] = _per_channel(value.detach().square()) * value.shape[1] / value.numel()
        assert callable(n.target)
        result = n.target(value + self.inputs[source.name], *args[1:], **kwargs)
        self.outputs[n.name] = torch.zeros_like(result, requires_grad=True)
        return result + self.outputs[n.name]


def noise_model(graph_module: fx.GraphModule, inputs: Tensor, seed: int = 0, batch: int = 2) -> NoiseModel:
    """Probe a captured network on calibration `inputs` ([N, C, H, W]); the same seed gives the same model."""
    generator = torch.Generator().manual_seed(seed)
    sums: tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]] = ({}, {}, {})
    for part in track(list(torch.split(inputs, batch)), "probing the answer to noise"):
        probing = _Probing(graph_module)
        with torch.enable_grad():
            output = probing.run(part)
            signs = torch.randint(0, 2, output.shape, generator=generator).to(output.dtype) * 2 - 1
            (output * signs).sum().backward()
        share = part.shape[0] / inputs.shape[0]
        for known, probes in ((sums[0], probing.inputs), (sums[1], probing.outputs)):
            for name, probe in probes.items():
                gradient = probe.grad if probe.grad is not None else torch.zeros_like(probe)
                known[name] = known.get(name, 0.0) + share * _per_channel(gradient.square()) / output.numel()
        for name, power in probing.power.items():
            sums[2][name] = sums[2].get(name, 0.0) + share * power
    return NoiseModel(*sums)


def _per_channel(value: Tensor) -> Tensor:
    """[N, C, ...] -> sums per channel, [C], float64."""
    return value.double().transpose(0, 1).flatten(1).sum(1)
