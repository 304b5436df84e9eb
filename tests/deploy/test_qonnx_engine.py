"""QONNX files: bit-equal to the integers in torch at every width, and what qonnx's own tools make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

from compress.compressed import CompressedModel
from compress.graph import capture
from compress.integer_graph import integer_graph
from compress.plan import LayerPlan, Placement
from compress.quantizers import Granularity
from deploy.onnx_export import export_qonnx
from deploy.onnx_plan import plan_of
from tests.deploy.qonnx_helpers import FLOAT, activations, layer, qonnx_engine, quantised, weights

pytest.importorskip("qonnx", reason="qonnx is not installed: pip install 'bitwright[fpga]'")
pytestmark = pytest.mark.engine


class Other(nn.Module):
    """What the shared network lacks: groups, a transposed convolution, a size taken from the input, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = self.head(x)
        second = nn.functional.prelu(self.body(first), torch.tensor(0.2)) + first
        large = nn.functional.interpolate(self.up(second), size=x.shape[-2:], mode="nearest")
        return self.fc(large.amax((2, 3)))


@pytest.fixture(scope="module")
def shared(network: nn.Module, inputs: Tensor) -> fx.GraphModule:
    return capture(network, inputs[:1])


PLANS = {
    "int8": layer(8),
    "int4": layer(4),
    "int2": layer(2),
    "w4a8": layer(4, 8),
    "unsigned": LayerPlan(
        weight=weights(8, Granularity.TENSOR, symmetric=False),
        activation=activations(8, signed=False, symmetric=False),
    ),
    "zero in the middle": LayerPlan(weight=weights(3), activation=activations(5, signed=False)),
    "signed with zero point": LayerPlan(weight=weights(6, symmetric=False), activation=activations(7, symmetric=False)),
}


def equal_bits(model: CompressedModel, inputs: Tensor, folder: Path) -> np.ndarray:
    """The engine's output, which must be that of the integers in torch, bit for bit."""
    engine = qonnx_engine(model, inputs[:1], folder)
    with torch.inference_mode():
        expected = integer_graph(model)(inputs).numpy()
    found = engine.run(inputs.numpy())
    np.testing.assert_array_equal(found, expected)
    return found


@pytest.mark.parametrize("name", PLANS)
def test_the_executor_gives_the_bits_of_torch(
    name: str, shared: fx.GraphModule, inputs: Tensor, tmp_path: Path
) -> None:
    model = quantised(shared, inputs, PLANS[name])
    found = equal_bits(model, inputs, tmp_path)
    with torch.inference_mode():
        real, simulated = shared(inputs).numpy(), model.simulate()(inputs).numpy()
    error = np.abs(simulated - real).mean()
    assert error > 0
    assert np.abs(simulated - found).mean() < 0.01 * error


@pytest.mark.parametrize("placement", [Placement.INPUTS_OUTPUTS, Placement.EVERYTHING])
def test_every_placement_gives_the_bits_of_torch(
    placement: Placement, shared: fx.GraphModule, inputs: Tensor, tmp_path: Path
) -> None:
    model = quantised(shared, inputs, layer(8), {"body": layer(2, 4), "body#2": layer(2, 4)}, placement)
    equal_bits(model, inputs, tmp_path)


@pytest.mark.parametrize("size", [(24, 32), (9, 13)])
def test_other_operators_and_sizes_give_the_bits_of_torch(
    size: tuple[int, int], inputs: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(6)
    model = quantised(capture(Other(), inputs[:1]), inputs, layer(4))
    equal_bits(model, inputs[:, :, : size[0], : size[1]].contiguous(), tmp_path)


@pytest.fixture(scope="module")
def mixed(shared: fx.GraphModule, inputs: Tensor) -> CompressedModel:
    others = {"body": layer(2, 4), "body#2": layer(2, 4), "tail": FLOAT}
    return quantised(shared, inputs, layer(5, 6), others)


@pytest.fixture(scope="module")
def mixed_file(mixed: CompressedModel, inputs: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixed") / "mixed.onnx"
    export_qonnx(mixed, inputs[:1], path)
    return path


def test_the_file_says_what_the_plan_says(mixed: CompressedModel, mixed_file: Path) -> None:
    file = onnx.load(mixed_file)
    assert plan_of(file) == mixed.plan
    assert {entry.domain for entry in file.opset_import} == {"", "qonnx.custom_op.general"}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    quants = [node for node in file.graph.node if node.op_type == "Quant"]
    widths = {node.input[0]: float(constants[node.input[3]]) for node in quants}
    stored = {name: width for name, width in widths.items() if name in constants}
    assert stored == {"head.weight.integers": 5.0, "body.weight.integers": 2.0}
    assert sorted(width for name, width in widths.items() if name not in stored) == [4.0, 4.0, 6.0]
    for node in quants:
        said = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert said == {"signed": 1, "narrow": 1, "rounding_mode": b"ROUND"}
        assert [float(constants[name]) if constants[name].ndim == 0 else 0 for name in node.input[1:3]] == [1.0, 0.0]
    for name in ("head.weight", "body.weight"):
        np.testing.assert_array_equal(constants[f"{name}.integers"], mixed.weights[name].integers.numpy())
    layers = {node.name: node.op_type for node in file.graph.node if node.op_type == "Conv"}
    assert list(layers) == ["head", "body", "body#2", "tail"]


def test_qonnx_infers_the_integers_and_every_value_is_one_of_them(
    mixed_file: Path, mixed: CompressedModel, inputs: Tensor
) -> None:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(str(mixed_file))
    model.set_tensor_shape("input", list(inputs.shape))
    model = model.transform(InferShapes()).transform(InferDataTypes())
    assert model.check_all_tensor_shapes_specified()
    values = execute_onnx(model, {"input": inputs.numpy()}, return_full_exec_context=True)
    found = []
    for node in model.get_nodes_by_op_type("Quant"):
        kind = model.get_tensor_datatype(node.output[0])
        found.append(kind.name)
        assert kind.allowed(values[node.output[0]]).all()
        assert len(np.unique(values[node.output[0]])) > 2
    assert sorted(found) == ["INT2", "INT4", "INT4", "INT5", "INT6"]
    assert [model.get_tensor_datatype(n.output[0]).name for n in model.get_nodes_by_op_type("Conv")] == [
        "INT32", "INT32", "INT32", "FLOAT32"
    ]  # fmt: skip
    with torch.inference_mode():
        np.testing.assert_allclose(values["output"], integer_graph(mixed)(inputs).numpy(), atol=1e-6)


def test_qonnx_cleans_the_file_up_for_one_size_without_changing_a_bit(mixed_file: Path, inputs: Tensor) -> None:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.util.cleanup import cleanup_model

    clean = cleanup_model(ModelWrapper(str(mixed_file)), override_inpsize=tuple(inputs.shape), extract_conv_bias=True)
    assert len(clean.get_nodes_by_op_type("Quant")) == 5
    assert tuple(clean.get_tensor_shape(clean.graph.output[0].name)) == (4, 3, 48, 64)
    again = ModelWrapper(str(mixed_file))
    again.set_tensor_shape("input", list(inputs.shape))
    again = cleanup_model(again)
    outputs = [
        execute_onnx(model, {model.graph.input[0].name: inputs.numpy()})[model.graph.output[0].name]
        for model in (clean, again)
    ]
    # The bias of the float layer was taken out of its convolution, so its sums may round in another order.
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)


def test_integers_that_no_float_could_hold_are_still_equal(inputs: Tensor, tmp_path: Path) -> None:
    """A tiny scale makes an int32 bias that float32 rounds: the rounded one is what both add."""
    torch.manual_seed(7)
    small = nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        small.weight.mul_(1e-6)
        small.bias.add_(1.0)  # type: ignore[union-attr]
    model = quantised(capture(small, inputs[:1]), inputs, layer(8))
    assert max(int(i.abs().max()) for i, _ in model.integer_biases().values()) > 2**24
    equal_bits(model, inputs, tmp_path)
