"""The formats in an exported file against its plan, without any runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

from bitwright.foundation.errors import VerificationError
from compress.compressed import CompressedModel
from compress.graph import capture
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8, Granularity, QuantFormat
from compress.ranges import RangeMethod, set_ranges
from compress.statistics import collect
from deploy.onnx_export import export_quantized
from deploy.onnx_formats import verify_formats

S8 = QuantFormat(bits=8, granularity=Granularity.TENSOR, symmetric=True, signed=True)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.Conv2d(8, 12, 3, padding=1)
        self.tail = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(nn.functional.pixel_shuffle(self.up(torch.relu(self.head(x))), 2))


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    torch.manual_seed(0)
    return capture(Net().eval(), torch.rand(1, 3, 16, 16))


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def quantised(graph: fx.GraphModule, pictures: Tensor, layers: dict[str, LayerPlan]) -> CompressedModel:
    plan = Plan(architecture="net", device="any", runtime="any", float_precision="fp32",
                placement=Placement.INPUTS, layers=layers)  # fmt: skip
    seen = collect(graph, pictures, {site.tensor.name for site in place(graph, plan)})
    return set_ranges(graph, plan, seen, RangeMethod.MINMAX, RangeMethod.MINMAX)


def narrower(form: QuantFormat, **changes: object) -> QuantFormat:
    return form.model_copy(update=changes)


FORMS = {
    "x86": LayerPlan(weight=W8, activation=A8),
    "gpu": LayerPlan(weight=W8, activation=S8),
    "4 and 3 bits": LayerPlan(weight=narrower(W8, bits=4), activation=narrower(A8, bits=3)),
    "reduced range": LayerPlan(weight=narrower(W8, reduce_range=True), activation=A8),
    "per tensor": LayerPlan(weight=narrower(W8, granularity=Granularity.TENSOR), activation=A8),
    "asymmetric": LayerPlan(weight=narrower(W8, symmetric=False), activation=narrower(S8, symmetric=False)),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_was_exported_is_as_planned(graph: fx.GraphModule, pictures: Tensor, tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    layers = {"head": form, "up": LayerPlan(weight=None, activation=None, reason="left out"), "tail": form}
    export_quantized(quantised(graph, pictures, layers), pictures[:1], path := tmp_path / "a.onnx")
    assert verify_formats(path, quantised(graph, pictures, layers).plan) == 2


def _zero_point(file: onnx.ModelProto) -> None:
    node = next(n for n in file.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == "tail.weight.integers")
    zero = numpy_helper.to_array(next(t for t in file.graph.initializer if t.name == node.input[2]))
    file.graph.initializer.append(numpy_helper.from_array(zero + np.int8(3), "moved"))
    node.input[2] = "moved"


def _other_integers(file: onnx.ModelProto) -> None:
    tensor = next(t for t in file.graph.initializer if t.name == "tail.weight.integers")
    value = numpy_helper.to_array(tensor).copy()
    value.flat[0] = -128
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _float_input(file: onnx.ModelProto) -> None:
    node = next(n for n in file.graph.node if n.name == "tail")
    source = next(n for n in file.graph.node if n.output[0] == node.input[0])
    while source.op_type in {"DequantizeLinear", "QuantizeLinear"}:
        node.input[0] = source.input[0]
        source = next(n for n in file.graph.node if n.output[0] == node.input[0])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_zero_point, "weight of layer tail: its zero point is not in the middle"),
        (_other_integers, "weight of layer tail: its integers reach from -128 to"),
        (_float_input, "input of layer tail: it is in float, planned 8 bits, unsigned, asymmetric, by tensor"),
    ],
)
def test_a_file_that_differs_is_told_by_layer(
    graph: fx.GraphModule, pictures: Tensor, tmp_path: Path, damage: Callable[[onnx.ModelProto], None], says: str
) -> None:
    model = quantised(graph, pictures, dict.fromkeys(("head", "up", "tail"), FORMS["x86"]))
    export_quantized(model, pictures[:1], path := tmp_path / "a.onnx")
    file = onnx.load(path)
    damage(file)
    onnx.save(file, path)
    with pytest.raises(VerificationError, match=says):
        verify_formats(path, model.plan)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (LayerPlan(weight=narrower(W8, bits=4), activation=A8), "weight of layer up: its integers reach"),
        (LayerPlan(weight=narrower(W8, granularity=Granularity.TENSOR), activation=A8), "up: it has 12 scales"),
        (LayerPlan(weight=W8, activation=S8), "input of layer up: it is uint8, planned 8 bits, signed"),
        (LayerPlan(weight=W8, activation=narrower(A8, bits=4)), "input of layer up: its integers reach from 0 to 255"),
    ],
)
def test_another_plan_is_told(
    graph: fx.GraphModule, pictures: Tensor, tmp_path: Path, other: LayerPlan, says: str
) -> None:
    model = quantised(graph, pictures, dict.fromkeys(("head", "up", "tail"), FORMS["x86"]))
    export_quantized(model, pictures[:1], path := tmp_path / "a.onnx")
    plan = model.plan.model_copy(update={"layers": {**model.plan.layers, "up": other}})
    with pytest.raises(VerificationError, match=says):
        verify_formats(path, plan)
    plan = model.plan.model_copy(update={"layers": {**model.plan.layers, "middle": FORMS["x86"]}})
    with pytest.raises(VerificationError, match="the file has no layer middle"):
        verify_formats(path, plan)
