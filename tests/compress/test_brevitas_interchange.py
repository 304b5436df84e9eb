"""Contract with Brevitas: the same bits, both ways, on every format that both have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data as pictures
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from compress.brevitas_interchange import export_qcdq, from_brevitas, to_brevitas
from compress.compressed import CompressedModel, QuantizedWeight
from compress.graph import capture, layer_nodes, tensor, weight_name
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8, QuantFormat, container, params_from_range, quantize
from compress.statistics import collect

S8 = QuantFormat(bits=8, granularity=A8.granularity, symmetric=True, signed=True)


def with_bits(form: QuantFormat, bits: int) -> QuantFormat:
    return form.model_copy(update={"bits": bits})


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=4, bias=False)
        self.tail = nn.ConvTranspose2d(16, 3, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.head(x))
        return self.tail(nn.functional.leaky_relu(self.deep(first), 0.1) + first)


def picture(size: int = 48) -> Tensor:
    image = torch.from_numpy(pictures.astronaut()).permute(2, 0, 1).to(torch.float32) / 255
    return torch.stack([image[:, i : i + size, 200 : 200 + size] for i in (0, 100, 300)])


def quantized(weight: QuantFormat, activation: QuantFormat, placement: Placement) -> CompressedModel:
    torch.manual_seed(0)
    graph = capture(Small(), torch.zeros(1, 3, 24, 24))
    layers = {name: LayerPlan(weight=weight, activation=activation) for name, _ in layer_nodes(graph)}
    plan = Plan(architecture="small", device="x", runtime="y", float_precision="fp32", placement=placement,
                layers=layers)  # fmt: skip
    model = CompressedModel(graph, plan)
    for name, node in layer_nodes(graph):
        value = tensor(graph, weight_name(node))
        axis = 1 if name == "tail" else 0
        flat = value.transpose(0, axis).flatten(1)
        params = params_from_range(flat.amin(1), flat.amax(1), weight, axis)
        integers = quantize(value, params, weight).to(container(weight))
        model.weights[weight_name(node)] = QuantizedWeight(integers, params, weight)
    for name, found in collect(graph, picture(), {s.tensor.name for s in model.sites()}).items():
        model.activations[name] = params_from_range(torch.tensor(found.low), torch.tensor(found.high), activation)
    return model


@pytest.mark.parametrize("placement", [Placement.INPUTS, Placement.INPUTS_OUTPUTS])
@pytest.mark.parametrize(
    ("weight", "activation"), [(W8, A8), (W8, S8), (with_bits(W8, 4), with_bits(A8, 4)), (with_bits(W8, 2), A8)]
)
def test_brevitas_layers_compute_the_same_bits(
    weight: QuantFormat, activation: QuantFormat, placement: Placement
) -> None:
    model = quantized(weight, activation, placement)
    with torch.no_grad():
        ours, theirs = model.simulate()(picture()), to_brevitas(model)(picture())
    assert torch.equal(ours, theirs)


def brevitas_network(bits: int, power_of_two: bool) -> nn.Module:
    from brevitas.nn import QuantConv2d
    from brevitas.quant import (
        Int8WeightPerChannelFloat,
        Int32Bias,
        Uint8ActPerTensorFixedPoint,
        Uint8ActPerTensorFloat,
    )

    torch.manual_seed(1)
    given = {
        "weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": bits, "bias_quant": Int32Bias, "bias": True,
        "input_quant": Uint8ActPerTensorFixedPoint if power_of_two else Uint8ActPerTensorFloat,
    }  # fmt: skip
    net = nn.Sequential(QuantConv2d(3, 8, 3, padding=1, **given), nn.ReLU(), QuantConv2d(8, 5, 1, **given))
    net.train()
    for _ in range(3):
        net(picture())
    return net.eval()


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_brevitas_network_with_power_of_two_scales_comes_in_bit_for_bit(bits: int) -> None:
    net = brevitas_network(bits, power_of_two=True)
    model = from_brevitas(net, picture()[:1])
    layer = model.plan.layers["0"]
    assert layer.weight is not None
    assert layer.weight.bits == bits
    with torch.no_grad():
        assert torch.equal(model.simulate()(picture()), net(picture()))


def test_float_scales_come_in_with_every_integer_and_differ_only_at_ties() -> None:
    net = brevitas_network(8, power_of_two=False)
    model = from_brevitas(net, picture()[:1])
    for name, layer in (("0", net[0]), ("2", net[2])):
        weight = model.weights[f"{name}.weight"]
        assert torch.equal(weight.values, layer.quant_weight().value)
        assert torch.equal(weight.integers.int(), layer.quant_weight().int().int())
    with torch.no_grad():
        ours, theirs = model.simulate()(picture()), net(picture())
    assert float((ours != theirs).float().mean()) < 1e-2
    assert float((ours - theirs).abs().max()) < 3 * float(model.activations["relu"].scale)


def test_round_trip_keeps_plan_and_bits() -> None:
    net = brevitas_network(4, power_of_two=True)
    model = from_brevitas(net, picture()[:1])
    with torch.no_grad():
        assert torch.equal(to_brevitas(model)(picture()), net(picture()))


def test_what_has_no_counterpart_is_named() -> None:
    from brevitas.nn import QuantConv2d, QuantReLU

    with pytest.raises(UsageError, match="1: QuantReLU"):
        from_brevitas(nn.Sequential(nn.Conv2d(3, 4, 1), QuantReLU()), picture()[:1])
    with pytest.raises(UsageError, match="0 has no input_quant"):
        from_brevitas(nn.Sequential(QuantConv2d(3, 4, 1)), picture()[:1])


@pytest.mark.engine
def test_qcdq_file_computes_what_torch_does(tmp_path: Path) -> None:
    import onnxruntime

    net = brevitas_network(8, power_of_two=True)
    path = tmp_path / "out" / "net.onnx"
    export_qcdq(net, picture()[:1], path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: picture()[:1].numpy()})[0]
    with torch.no_grad():
        wanted = net(picture()[:1]).numpy()
    assert float(np.abs(found - wanted).max()) < 1e-4
