from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.foundation.errors import GraphError
from compress.balancing import balance, choose_strength
from compress.channel_groups import channel_groups
from compress.equality import largest_difference, prove_equal
from compress.equalization import equalize, layer_inputs, rescale
from compress.graph import capture, layer_nodes, tensor
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8
from compress.ranges import set_ranges
from compress.statistics import collect
from workloads.loading import load_checkpoint
from workloads.super_resolution.images import read_image


class Mixed(nn.Module):
    """Concatenation, split, gate, grouped, transposed, shared and shuffled layers in one network."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.slope = nn.PReLU(8)
        self.gate = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(12, 8, 4, 2, 1, groups=2)
        self.last = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.slope(self.first(x))
        b = self.grouped(a) + a
        left, right = b.split([4, 4], dim=1)
        left = torch.relu(self.shared(torch.relu(self.shared(left))))
        c = torch.cat([left, right], 1)
        spread = ((c - c.mean((2, 3), keepdim=True)) ** 2).mean((2, 3), keepdim=True).sqrt()
        c = c * torch.sigmoid(self.gate(spread))
        d = self.up(torch.cat([c[:, 2:6], b], 1))
        return nn.functional.pixel_shuffle(self.last(nn.functional.leaky_relu(d, 0.1)), 2)


@pytest.fixture(scope="module")
def mixed():
    torch.manual_seed(0)
    return capture(Mixed(), torch.rand(1, 3, 16, 16)), torch.rand(4, 3, 20, 16)


def crops(data: Path, count: int = 4) -> torch.Tensor:
    found = [read_image(p)[:48, :48] for p in sorted((data / "sr" / "test" / "Set5").iterdir())[:count]]
    return torch.stack([torch.as_tensor(f).permute(2, 0, 1).float() for f in found])


def test_any_factor_of_any_group_keeps_the_function(mixed):
    graph, inputs = mixed
    groups = channel_groups(graph)
    assert groups.count == 16  # 8 behind the first layer and all that is tied to it, 8 behind the transposed one
    for seed in range(5):
        factors = torch.randn(groups.count, generator=torch.Generator().manual_seed(seed)).clamp(-2, 2)
        rewritten = rescale(graph.double(), groups, factors)
        assert largest_difference(graph, rewritten, inputs.double()) < 1e-12
        assert any(
            not torch.equal(tensor(graph, n), tensor(rewritten, n))
            for n in ("up.weight", "grouped.weight", "shared.weight")
        )
    graph.float()


def test_groups_tie_what_must_be_tied(mixed):
    graph, _ = mixed
    groups = channel_groups(graph)
    node = {name: n.name for name, n in layer_nodes(graph)}
    assert torch.equal(groups.group[node["first"]], groups.group[node["grouped"]])  # the residual sum
    assert (groups.group[node["gate"]] == -1).all()  # in front of a sigmoid
    assert (groups.group["x"] == -1).all()
    assert (groups.group[node["shared"]] == groups.group[node["shared#2"]]).all()
    assert (groups.group[node["up"]] >= 0).all()


def test_the_exponent_of_a_square_is_two(mixed):
    graph, _ = mixed
    groups = channel_groups(graph)
    squares = [n.name for n in graph.graph.nodes if "pow" in str(n.target)]
    assert squares
    assert set(groups.exponent[squares[0]].tolist()) == {2.0}


@pytest.mark.parametrize(
    "file", ["rfdn_x4.pth", "imdn_x4.pth", "pan_x4.pth", "rlfn_x4.pth", "fsrcnn_x4.pth", "carn_m_x234.pth"]
)
def test_real_networks_keep_their_outputs(data, file):
    loaded = load_checkpoint(data / "checkpoints" / file, scale=4)
    largest = 255.0 if file == "rfdn_x4.pth" else 1.0
    inputs = crops(data, 2) / 255 * largest
    if file.startswith("fsrcnn"):
        inputs = inputs[:, :1]
    graph = capture(loaded.module, inputs[:1])
    equalized = equalize(graph, collect(graph, inputs, layer_inputs(graph)), 1.0)
    assert largest_difference(graph, equalized, inputs) < 1e-5


def simulated_error(inputs):
    def error(graph):
        layers = {name: LayerPlan(weight=W8, activation=A8) for name, _ in layer_nodes(graph)}
        plan = Plan(architecture="a", device="d", runtime="r", float_precision="fp32", placement=Placement.INPUTS,
                    layers=layers)  # fmt: skip
        model = set_ranges(graph, plan, collect(graph, inputs, layer_inputs(graph))).simulate()
        return float((model(inputs) - graph(inputs)).square().mean())

    return error


def test_rfdn_loses_less_when_balanced(data):
    inputs = crops(data)
    graph = capture(load_checkpoint(data / "checkpoints" / "rfdn_x4.pth").module, inputs[:1])
    statistics = collect(graph, inputs, layer_inputs(graph))
    error = simulated_error(inputs)
    choice = choose_strength(graph, statistics, error, (0.0, 1.0))
    assert choice.strength == 1.0
    assert choice.errors[1.0] < 0.85 * choice.errors[0.0]
    result = balance(graph, statistics, inputs[:2], steps=60)
    assert result.after < result.before
    assert error(result.graph) < choice.errors[1.0]
    assert prove_equal(graph, result.graph, inputs, 1e-5) < 1e-5


def test_strength_zero_changes_nothing_and_powers_of_two_are_exact(mixed):
    graph, inputs = mixed
    statistics = collect(graph, inputs, layer_inputs(graph))
    assert largest_difference(graph, equalize(graph, statistics, 0.0), inputs) == 0.0
    rounded = equalize(graph, statistics, 0.5, powers_of_two=True)
    ratio = tensor(rounded, "first.bias") / tensor(graph, "first.bias")
    assert torch.equal(torch.log2(ratio), torch.log2(ratio).round())
    with pytest.raises(GraphError, match="strength"):
        equalize(graph, statistics, 1.5)


def test_a_changed_function_is_refused(mixed):
    graph, inputs = mixed
    groups = channel_groups(graph)
    broken = rescale(graph, groups, torch.zeros(groups.count))
    tensor(broken, "last.bias").add_(1.0)
    with pytest.raises(GraphError, match="changed the outputs"):
        prove_equal(graph, broken, inputs)
