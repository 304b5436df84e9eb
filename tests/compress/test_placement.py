"""Which tensors each placement quantises, on small graphs where the list can be read off."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from compress.graph import capture, layer_nodes
from compress.placement import is_activation, place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8


class Residual(nn.Module):
    """conv -> relu -> conv -> leaky_relu -> add -> conv -> pixel_shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.a(x))
        second = nn.functional.leaky_relu(self.b(first), 0.1) + first
        return nn.functional.pixel_shuffle(self.c(second), 2)


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    torch.manual_seed(0)
    return capture(Residual(), torch.rand(1, 3, 8, 10))


def sites(graph: fx.GraphModule, placement: Placement, in_float: tuple[str, ...] = ()) -> dict[str, list[str]]:
    layers = {name: LayerPlan() if name in in_float else LayerPlan(weight=W8, activation=A8)
              for name, _ in layer_nodes(graph)}  # fmt: skip
    plan = Plan(architecture="a", device="d", runtime="r", float_precision="fp32", placement=placement, layers=layers)
    return {site.tensor.name: sorted(user.name for user in site.consumers) for site in place(graph, plan)}


def test_inputs_only_the_layers_read_integers(graph: fx.GraphModule) -> None:
    assert sites(graph, Placement.INPUTS) == {"x": ["conv2d"], "relu": ["conv2d_1"], "add": ["conv2d_2"]}


def test_outputs_sit_behind_a_fused_activation_and_in_front_of_others(graph: fx.GraphModule) -> None:
    assert sites(graph, Placement.INPUTS_OUTPUTS) == {
        "x": ["conv2d"],
        "relu": ["add", "conv2d_1"],
        "conv2d_1": ["leaky_relu"],
        "add": ["conv2d_2"],
        "conv2d_2": ["pixel_shuffle"],
    }


def test_everything_adds_the_elementwise_operators_and_the_output(graph: fx.GraphModule) -> None:
    assert sites(graph, Placement.EVERYTHING) == {
        "x": ["conv2d"],
        "relu": ["add", "conv2d_1"],
        "conv2d_1": ["leaky_relu"],
        "leaky_relu": ["add"],
        "add": ["conv2d_2"],
        "conv2d_2": ["pixel_shuffle"],
        "pixel_shuffle": ["output"],
    }


def test_a_float_layer_keeps_its_input_in_float(graph: fx.GraphModule) -> None:
    assert sites(graph, Placement.INPUTS, in_float=("b",)) == {"x": ["conv2d"], "add": ["conv2d_2"]}
    assert sites(graph, Placement.INPUTS_OUTPUTS, in_float=("b", "c")) == {"x": ["conv2d"], "relu": ["add", "conv2d_1"]}


@pytest.mark.parametrize("placement", list(Placement))
def test_nothing_planned_nothing_placed(graph: fx.GraphModule, placement: Placement) -> None:
    assert sites(graph, placement, in_float=("a", "b", "c")) == {}


def test_sites_are_in_execution_order(graph: fx.GraphModule) -> None:
    order = [node.name for node in graph.graph.nodes]
    found = list(sites(graph, Placement.EVERYTHING))
    assert found == sorted(found, key=order.index)


def test_constants_are_no_activations(graph: fx.GraphModule) -> None:
    assert [n.name for n in graph.graph.nodes if is_activation(n)] == [
        "x", "conv2d", "relu", "conv2d_1", "leaky_relu", "add", "conv2d_2", "pixel_shuffle",
    ]  # fmt: skip
