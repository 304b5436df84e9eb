"""Leaving layers of a quantised network in float gives them back what rounding took."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.bias_correction import correct_biases
from compress.compressed import CompressedModel
from compress.graph import capture, clone, layer_nodes, weight_name
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8
from compress.ranges import set_ranges
from compress.statistics import collect
from search.layer_sensitivity import layer_sensitivity, restricted


@pytest.fixture
def loaded(tmp_path: Path) -> tuple[CompressedModel, torch.fx.GraphModule, torch.Tensor]:
    """A network of three layers, quantised to four bits, saved and loaded again, with its float graph and inputs."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 3, 1)
    )
    inputs = torch.rand(4, 3, 16, 16)
    graph = capture(net, inputs[:1])
    form = LayerPlan(weight=W8.model_copy(update={"bits": 4}), activation=A8)
    layers = {name: form for name, _ in layer_nodes(graph)}
    plan = Plan(architecture="test", device="x86-avx512-vnni-bf16", runtime="openvino", float_precision="fp32",
                placement=Placement.INPUTS, layers=layers)  # fmt: skip
    statistics = collect(graph, inputs, {site.tensor.name for site in place(graph, plan)})
    model = set_ranges(clone(graph), plan, statistics)
    correct_biases(model, inputs)
    model.save(tmp_path / "model.safetensors")
    return CompressedModel.load(tmp_path / "model.safetensors", graph), graph, inputs


def test_a_network_with_all_layers_in_float_computes_what_the_float_network_does(loaded) -> None:
    model, graph, inputs = loaded
    assert not torch.allclose(model.simulate()(inputs), graph(inputs), atol=1e-3)
    plan = model.plan.with_float(set(model.plan.layers), "all")
    assert torch.allclose(restricted(model, plan, graph).simulate()(inputs), graph(inputs), atol=1e-6)


def test_layers_that_stay_quantised_keep_their_integers_and_biases(loaded) -> None:
    model, graph, _ = loaded
    first, *others = model.plan.layers
    part = restricted(model, model.plan.with_float({first}, "test"), graph)
    weights = {name: weight_name(node) for name, node in layer_nodes(model.graph)}
    assert set(part.weights) == {weights[name] for name in others}
    state, before = part.graph.state_dict(), model.graph.state_dict()
    for name in others:
        assert torch.equal(part.weights[weights[name]].integers, model.weights[weights[name]].integers)
        bias = weights[name].removesuffix("weight") + "bias"
        assert torch.equal(state[bias], before[bias])
    assert torch.equal(state[weights[first]], graph.state_dict()[weights[first]])
    assert torch.equal(model.graph.state_dict()[weights[first]], before[weights[first]])


def test_sensitivity_is_that_of_the_layer_alone(loaded) -> None:
    model, graph, inputs = loaded
    wanted = graph(inputs)

    def quality(predict) -> float:
        return -float((predict(inputs) - wanted).square().mean())

    drops = layer_sensitivity(model, quality, graph)
    assert list(drops) == list(model.plan.layers)
    assert all(0 < drop < -quality(model.simulate()) * 2 for drop in drops.values())
