"""Networks whose layers see tokens, [N, tokens, C]: captured for their size, balanced, corrected, written, read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx, nn

from bitwright.foundation.errors import GraphError
from compress.balancing import balance
from compress.bias_correction import correct_biases, output_means
from compress.compressed import CompressedModel
from compress.equalization import layer_inputs
from compress.graph import capture, dynamic_dimensions, layer_nodes
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W4_BLOCKS, W8
from compress.ranges import RangeMethod, set_ranges
from compress.statistics import collect
from deploy.engine import FloatPrecision
from deploy.onnx_export import export_float, export_quantized
from deploy.onnx_formats import verify_formats
from deploy.onnx_layers import layer_of_nodes
from deploy.torch_aot.network import OnnxNetwork
from tests.deploy.operators import reference, run_torch

TOKENS, WIDTH = 4, 128


class Tokens(nn.Module):
    """Patches of 8x8 with learned places, attention of two heads, a feed-forward network, a mean and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)
        self.places = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.projection = nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 256), nn.Linear(256, WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        split = self.qkv(self.norm(tokens)).reshape(x.shape[0], TOKENS, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*split.unbind(0))
        tokens = tokens + self.projection(seen.transpose(1, 2).reshape(x.shape[0], TOKENS, WIDTH))
        tokens = tokens + self.narrow(nn.functional.gelu(self.wide(tokens)))
        head: Tensor = self.head(tokens.mean(1))
        return head


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def graph(inputs: Tensor) -> fx.GraphModule:
    torch.manual_seed(0)
    return capture(Tokens(), inputs[:1], one_size=True)


def plan_of(graph: fx.GraphModule, layer: LayerPlan, *, in_float: tuple[str, ...] = ()) -> Plan:
    layers = {n: LayerPlan(reason="left out") if n in in_float else layer for n, _ in layer_nodes(graph)}
    return Plan(architecture="t", device="d", runtime="r", float_precision="fp32", placement=Placement.INPUTS,
                layers=layers)  # fmt: skip


def test_only_what_runs_at_another_size_keeps_its_sides_open(graph: fx.GraphModule, inputs: Tensor) -> None:
    assert dynamic_dimensions(graph) == (0,)
    any_size = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert dynamic_dimensions(capture(any_size, inputs[:1], one_size=True)) == (0, 2, 3)
    matrices = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    assert dynamic_dimensions(capture(matrices, inputs[:1], one_size=True)) == (0,)


class Counting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 768)


def test_a_batch_that_the_code_makes_a_constant_is_told(inputs: Tensor) -> None:
    with pytest.raises(GraphError, match="makes a constant of the batch size, as len"):
        capture(Counting(), inputs[:1], one_size=True)


def test_balancing_leaves_tokens_alone(graph: fx.GraphModule, inputs: Tensor) -> None:
    found = balance(graph, collect(graph, inputs, layer_inputs(graph)), inputs, steps=5)
    torch.testing.assert_close(found.graph(inputs), graph(inputs), rtol=1e-4, atol=1e-4)


def test_biases_are_corrected_by_the_last_dimension(graph: fx.GraphModule, inputs: Tensor) -> None:
    plan = plan_of(graph, LayerPlan(weight=W8.model_copy(update={"bits": 3}), activation=A8))
    model = set_ranges(graph, plan, collect(graph, inputs, {s.tensor.name for s in place(graph, plan)}))
    names = {node.name for _, node in layer_nodes(graph)}
    wanted = output_means(graph, inputs, names)
    assert {name: len(mean) for name, mean in wanted.items()}["linear"] == 3 * WIDTH

    def worst() -> float:
        found = output_means(model.simulate(), inputs, names)
        return max(float((found[n] - wanted[n]).abs().max() / wanted[n].abs().max()) for n in names)

    before = worst()
    correct_biases(model, inputs)
    assert worst() < 0.05 < before


def test_layers_keep_their_names_where_the_exporter_turns_their_weights(
    graph: fx.GraphModule, inputs: Tensor, tmp_path: Path
) -> None:
    names = [name for name, _ in layer_nodes(graph)]
    export_float(graph, inputs[:1], tmp_path / "float.onnx")
    assert [name for name, _ in layer_of_nodes(onnx.load(tmp_path / "float.onnx"))] == names
    plan = plan_of(graph, LayerPlan(weight=W8, activation=A8), in_float=("qkv", "narrow"))
    model = set_ranges(graph, plan, collect(graph, inputs, {s.tensor.name for s in place(graph, plan)}))
    export_quantized(model, inputs[:1], tmp_path / "mixed.onnx")
    assert [name for name, _ in layer_of_nodes(onnx.load(tmp_path / "mixed.onnx"))] == names
    simulated = model.simulate()(inputs).numpy()
    np.testing.assert_allclose(reference(tmp_path / "mixed.onnx", inputs.numpy()), simulated, atol=2e-2)
    read = run_torch(tmp_path / "mixed.onnx", inputs.numpy())
    np.testing.assert_allclose(read, reference(tmp_path / "mixed.onnx", inputs.numpy()), atol=1e-4)
    with torch.no_grad():
        short = OnnxNetwork(tmp_path / "mixed.onnx", FloatPrecision.BF16).eval()(inputs).numpy()
    np.testing.assert_allclose(short, read, atol=0.05 * float(np.abs(read).max()))


def test_weights_in_blocks_compute_in_the_file_what_they_do_in_torch(
    graph: fx.GraphModule, inputs: Tensor, tmp_path: Path
) -> None:
    plan = plan_of(graph, LayerPlan(weight=W4_BLOCKS), in_float=("patches",))
    model = set_ranges(graph, plan, {}, weights=RangeMethod.MSE)
    assert model.sites() == ()
    path = tmp_path / "blocks.onnx"
    export_quantized(model, inputs[:1], path)
    assert verify_formats(path, plan) == 5
    file = onnx.load(path)
    kinds = {t.name: t.data_type for t in file.graph.initializer}
    assert [kinds[f"{n}.weight.integers"] for n in ("qkv", "head")] == [onnx.TensorProto.INT4] * 2
    np.testing.assert_allclose(reference(path, inputs.numpy()), model.simulate()(inputs).numpy(), rtol=1e-4, atol=1e-4)


def test_a_plan_with_blocks_survives_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(768, 8)
    graph = capture(nn.Sequential(nn.Flatten(), linear), torch.randn(1, 3, 16, 16), one_size=True)
    plan = plan_of(graph, LayerPlan(weight=W4_BLOCKS))
    model = set_ranges(graph, plan, {}, weights=RangeMethod.MSE)
    weight = model.weights["1.weight"]
    assert weight.params.scale.shape == (8, 6)
    error = (weight.values - linear.weight).abs()
    assert (error <= 0.55 * weight.params.broadcast(2)[0]).float().mean() > 0.95
    model.save(tmp_path / "model.safetensors")
    again = CompressedModel.load(tmp_path / "model.safetensors", graph)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.simulate()(x), again.simulate()(x))
    assert again.plan == plan
    assert again.weights["1.weight"].stored_bytes == 8 * 768 // 2
