from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.bias_correction import correct_biases, output_means
from compress.compressed import CompressedModel
from compress.equalization import layer_inputs
from compress.graph import capture, layer_nodes, tensor
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8
from compress.ranges import set_ranges
from compress.statistics import collect


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 3, 3, padding=1, bias=False),
    )  # fmt: skip
    inputs = torch.rand(8, 3, 16, 16)
    graph = capture(net, inputs[:1])
    form = W8.model_copy(update={"bits": 3})
    layers = {name: LayerPlan(weight=form, activation=A8) for name, _ in layer_nodes(graph)}
    plan = Plan(architecture="a", device="d", runtime="r", float_precision="fp32", placement=Placement.INPUTS,
                layers=layers)  # fmt: skip
    return graph, set_ranges(graph, plan, collect(graph, inputs, layer_inputs(graph))), inputs


def test_mean_output_errors_vanish_and_a_saved_model_keeps_the_new_biases(model, tmp_path):
    graph, compressed, inputs = model
    last = [n.name for _, n in layer_nodes(graph)]
    expected = output_means(graph, inputs, set(last))
    before = output_means(compressed.simulate(), inputs, set(last))
    error = (compressed.simulate()(inputs) - graph(inputs)).square().mean()
    correct_biases(compressed, inputs)
    after = output_means(compressed.simulate(), inputs, set(last))
    for name in last:
        assert (before[name] - expected[name]).abs().max() > 1e-3
        assert (after[name] - expected[name]).abs().max() < 0.01 * (before[name] - expected[name]).abs().max()
    first = last[0]
    bias_step = compressed.integer_biases()[first][1].scale
    assert ((after[first] - expected[first]).abs() <= 0.51 * bias_step).all()
    assert (compressed.simulate()(inputs) - graph(inputs)).square().mean() < error
    assert tensor(compressed.graph, "0.bias").shape == (8,)
    compressed.save(tmp_path / "model.safetensors")
    loaded = CompressedModel.load(tmp_path / "model.safetensors", graph)
    assert torch.equal(loaded.simulate()(inputs), compressed.simulate()(inputs))


def test_correcting_again_against_the_float_graph_changes_next_to_nothing(model):
    graph, compressed, inputs = model
    correct_biases(compressed, inputs, graph)
    once = tensor(compressed.graph, "2.bias").clone()
    correct_biases(compressed, inputs, graph)
    assert (tensor(compressed.graph, "2.bias") - once).abs().max() < 1e-3
