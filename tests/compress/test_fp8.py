"""E4M3: its rounding against golden values, torch and ONNX, and networks that store their weights in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from pydantic import ValidationError
from torch import Tensor, fx, nn

from bitwright.foundation.errors import UsageError
from compress.brevitas_interchange import to_brevitas
from compress.compressed import CompressedModel
from compress.exportable import exportable
from compress.graph import capture, layer_nodes
from compress.integer_graph import integer_graph, largest_sums
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import (
    FP8_ACTIVATIONS,
    FP8_WEIGHTS,
    W8,
    Encoding,
    QuantFormat,
    QuantParams,
    dequantize,
    encode,
    fake_quantize,
    params_from_range,
    quantize,
)
from compress.ranges import RangeMethod, set_ranges, weight_params
from compress.reconstruction import reconstruct
from compress.statistics import collect

FLOAT8 = torch.float8_e4m3fn


def unit(scale: float = 1.0) -> QuantParams:
    return QuantParams(torch.tensor(scale), torch.tensor(0, dtype=torch.int32))


def test_golden_values_ties_to_even_and_saturation() -> None:
    # 8 values an octave from 2^-6 on, steps of 2^-9 below, 448 the largest.
    x = torch.tensor([1.0625, 1.1875, -1.0625, 17.0, 2**-10, 3 * 2**-10, 0.0, 447.0, 464.0, 465.0, 1e6, -1e6])
    wanted = [1.0, 1.25, -1.0, 16.0, 0.0, 2**-8, 0.0, 448.0, 448.0, 448.0, 448.0, -448.0]
    assert fake_quantize(x, unit(), FP8_ACTIVATIONS).tolist() == wanted
    stored = encode(x, unit(), FP8_ACTIVATIONS)
    assert stored.dtype == FLOAT8
    assert dequantize(stored, unit()).tolist() == wanted
    assert fake_quantize(x * 0.5, unit(0.5), FP8_ACTIVATIONS).tolist() == [0.5 * value for value in wanted]


def test_every_code_is_kept_and_all_between_goes_to_the_nearest() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(FLOAT8).to(torch.float32)
    codes = codes[codes.isfinite()].unique()
    assert len(codes) == 253
    assert torch.equal(fake_quantize(codes, unit(), FP8_ACTIVATIONS), codes)
    x = torch.linspace(-460, 460, 40001)
    nearest = codes[(x[:, None] - codes).abs().argmin(1)]
    rounded = fake_quantize(x, unit(), FP8_ACTIVATIONS)
    assert torch.equal((rounded - x).abs(), (nearest - x).abs())


def test_rounding_is_that_of_onnx_quantize_linear() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, generator=generator) * torch.logspace(-4, 2, 20000)
    params = params_from_range(-x.abs().max() / 3, x.abs().max() / 3, FP8_ACTIVATIONS)
    make = onnx.helper
    nodes = [
        make.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        make.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    zero = make.make_tensor("z", onnx.TensorProto.FLOAT8E4M3FN, [], [0.0])
    constants = [onnx.numpy_helper.from_array(params.scale.numpy(), "s"), zero]
    ends = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in ("x", "y")]
    graph = make.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    file = make.make_model(graph, opset_imports=[make.make_opsetid("", 19)], ir_version=9)
    (found,) = ReferenceEvaluator(file).run(None, {"x": x.numpy()})
    assert np.array_equal(found, fake_quantize(x, params, FP8_ACTIVATIONS).numpy())
    assert float(abs(found).max()) == pytest.approx(float(params.scale) * 448)


def test_gradient_is_straight_through_and_stops_outside() -> None:
    x = torch.tensor([0.3, -7.7, 447.0, 449.0, -500.0], requires_grad=True)
    fake_quantize(x, unit(), FP8_ACTIVATIONS).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_e4m3_has_one_form_and_integer_plans_are_written_as_before() -> None:
    for wrong in ({"bits": 4}, {"symmetric": False}, {"signed": False}, {"reduce_range": True}):
        with pytest.raises(ValidationError, match="E4M3 is 8 bits, symmetric, signed and of full range"):
            QuantFormat.model_validate({**FP8_WEIGHTS.model_dump(), **wrong})
    with pytest.raises(ValidationError, match="both integers or both fp8"):
        LayerPlan(weight=FP8_WEIGHTS, activation=W8)
    with pytest.raises(ValueError, match="E4M3 does not store integers"):
        quantize(torch.ones(1), unit(), FP8_ACTIVATIONS)
    assert W8.model_dump_json() == (
        '{"bits":8,"granularity":"channel","symmetric":true,"signed":true,"reduce_range":false}'
    )
    assert QuantFormat.model_validate_json(FP8_WEIGHTS.model_dump_json()).encoding is Encoding.E4M3


@pytest.mark.parametrize("method", [RangeMethod.MINMAX, RangeMethod.MSE])
def test_weights_have_a_scale_for_each_channel(method: RangeMethod) -> None:
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)) * torch.tensor([[0.01], [1.0], [100.0]])
    params = weight_params(weight, FP8_WEIGHTS, method)
    if method is RangeMethod.MINMAX:
        assert torch.allclose(params.scale, weight.abs().amax(1) / 448)
    error = (fake_quantize(weight, params, FP8_WEIGHTS) - weight).abs() / weight.abs()
    # A value has 4 significant bits: half of the last is at most 1/16 of it.
    assert error.median(1).values.tolist() == pytest.approx([0.02] * 3, abs=0.015)
    assert float((error * (weight.abs() > weight.abs().amax(1, keepdim=True) / 1000)).max()) <= 1 / 16


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(torch.relu(self.head(x)))


INPUTS = torch.rand(4, 3, 12, 16, generator=torch.Generator().manual_seed(2))


def captured() -> fx.GraphModule:
    return capture(Network().eval(), INPUTS[:1])


@pytest.fixture(scope="module")
def model() -> CompressedModel:
    torch.manual_seed(0)
    graph = captured()
    layer = LayerPlan(weight=FP8_WEIGHTS, activation=FP8_ACTIVATIONS)
    plan = Plan(architecture="n", device="d", runtime="r", float_precision="fp32", placement=Placement.INPUTS,
                layers={name: layer for name, _ in layer_nodes(graph)})  # fmt: skip
    statistics = collect(graph, INPUTS, {site.tensor.name for site in place(graph, plan)})
    return set_ranges(graph, plan, statistics, RangeMethod.MSE)


def test_the_simulation_is_the_network_with_rounded_weights_and_inputs(model: CompressedModel) -> None:
    head, tail = (model.weights[f"{name}.weight"] for name in ("head", "tail"))
    assert head.integers.dtype == FLOAT8
    assert model.integer_biases() == {}
    first, second = (model.activations[site.tensor.name] for site in model.sites())
    state = model.graph.state_dict()
    x = fake_quantize(INPUTS, first, FP8_ACTIVATIONS)
    x = torch.relu(torch.conv2d(x, head.values, state["head.bias"], padding=1))
    x = torch.conv2d(fake_quantize(x, second, FP8_ACTIVATIONS), tail.values, state["tail.bias"], padding=1)
    assert torch.equal(model.simulate()(INPUTS), x)
    assert torch.equal(exportable(model)(INPUTS), x)
    assert 1e-4 < float((x - model.graph(INPUTS)).abs().max()) < 0.1


def test_a_saved_model_is_loaded_as_it_was(model: CompressedModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m.safetensors")
    loaded = CompressedModel.load(tmp_path / "m.safetensors", captured())
    assert loaded.plan == model.plan
    assert loaded.weights["head.weight"].integers.dtype == FLOAT8
    assert torch.equal(loaded.simulate()(INPUTS), model.simulate()(INPUTS))


def test_what_works_on_integers_refuses_it(model: CompressedModel) -> None:
    for call in (integer_graph, largest_sums, lambda m: reconstruct(m, INPUTS)):
        with pytest.raises(UsageError, match="works on integers, and layer head is in fp8; compress it to int8"):
            call(model)
    with pytest.raises(UsageError, match="Brevitas' interchange works on integers, and layer head is in fp8"):
        to_brevitas(model)
