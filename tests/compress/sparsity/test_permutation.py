"""Channel permutations keep the network and never keep less; channels that stand for their place stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import GraphError
from compress.equality import largest_difference
from compress.graph import capture, layer_nodes, set_tensor, tensor, weight_name
from compress.layer_table import LayerTable
from compress.nm_pattern import Sparsity
from compress.preparation import prepare
from compress.sparsity import nm_mask
from compress.sparsity.eligibility import decide
from compress.sparsity.one_shot import sparse_weights
from compress.sparsity.permutation import permute
from workloads.loading import load_checkpoint


class Net(nn.Module):
    """Residual sums, a concatenation, a split, a depthwise layer, slopes, shared layers, both upsamplers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.join = nn.Conv2d(32, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.slopes = nn.PReLU(16)
        self.behind = nn.Conv2d(16, 32, 1)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.shuffled = nn.Conv2d(16, 32, 3, padding=1)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        y = x + self.second(torch.relu(self.first(x)))
        y = y + self.second(torch.relu(self.first(y)))
        z = self.join(torch.cat([y, x], 1))
        z = self.slopes(self.depthwise(z))
        left, right = torch.chunk(self.behind(z), 2, 1)
        z = self.up(left + torch.relu(right))
        return self.tail(nn.functional.pixel_shuffle(self.shuffled(z), 2))


@pytest.mark.parametrize("text", ["2:4", "1:8", "3:4"])
def test_outputs_stay_and_more_is_kept(text: str) -> None:
    torch.manual_seed(0)
    example = torch.rand(1, 3, 12, 12)
    graph = capture(Net(), example)
    names = dict.fromkeys((n for n, _ in layer_nodes(graph)), Sparsity.parse(text))
    table = LayerTable.from_graph(graph, example)
    for name in ("head", "depthwise"):
        names.pop(name)
    sparse = sparse_weights(graph, table, names)
    found = permute(graph, sparse, example)
    assert largest_difference(graph, found.graph, torch.rand(2, 3, 9, 14)) < 1e-5
    assert found.before < found.after <= found.free
    assert 0.05 < found.efficacy < 1
    assert found.moved > 4
    kept = 0.0
    for name, (pattern, layout) in sparse.items():
        weight = tensor(found.graph, name)
        kept += float((weight.abs() * nm_mask(weight.abs(), pattern, layout)).double().sum())
    # The record is of the network that is returned.
    assert kept == pytest.approx(found.after, rel=1e-6)
    again = permute(graph, sparse, example)
    assert all(torch.equal(tensor(found.graph, n), tensor(again.graph, n)) for n in sparse)


def test_channels_of_grouped_layers_and_slopes_stay() -> None:
    torch.manual_seed(0)
    example = torch.rand(1, 3, 12, 12)
    graph = capture(Net(), example)
    table = LayerTable.from_graph(graph, example)
    found = permute(graph, sparse_weights(graph, table, {"behind": Sparsity.parse("2:4")}), example)
    assert found.moved == 0
    assert found.efficacy == 0.0
    for _, node in layer_nodes(graph):
        assert torch.equal(tensor(graph, weight_name(node)), tensor(found.graph, weight_name(node)))


def test_columns_that_can_be_paired_are_paired() -> None:
    """Four large channels in one group of 2:4 lose half of themselves; spread over two groups they are all kept."""
    example = torch.rand(1, 3, 8, 8)
    graph = capture(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)), example)
    weight = torch.cat([torch.full((2, 4, 1, 1), 5.0), torch.full((2, 4, 1, 1), 0.1)], 1)
    set_tensor(graph, "2.weight", weight)
    table = LayerTable.from_graph(graph, example)
    found = permute(graph, sparse_weights(graph, table, {"2": Sparsity.parse("2:4")}), example)
    assert found.before == pytest.approx(2 * (10 + 0.2))
    assert found.after == pytest.approx(2 * 20)
    assert found.efficacy == pytest.approx(1.0)


def test_a_permutation_that_changes_outputs_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is real: with the constants' places forgotten, slopes meet other channels."""
    torch.manual_seed(0)
    example = torch.rand(1, 3, 12, 12)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PReLU(8), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        net[1].weight.copy_(torch.linspace(-1, 1, 8))
    graph = capture(net, example)
    sparse = sparse_weights(graph, LayerTable.from_graph(graph, example), {"2": Sparsity.parse("2:4")})
    assert permute(graph, sparse, example).moved == 0
    monkeypatch.setattr("compress.sparsity.permutation._keeps_places", lambda graph, node: False)
    with pytest.raises(GraphError, match="changed the outputs"):
        permute(graph, sparse, example)


class Gated(nn.Module):
    """A gate on channels that are free themselves; a picture-wide one too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.gate = nn.Conv2d(16, 16, 1)
        self.wide = nn.Conv2d(16, 1, 1)
        self.behind = nn.Conv2d(16, 16, 1)
        self.tail = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(torch.relu(self.head(x)))
        y = y * torch.sigmoid(self.gate(y))
        return self.tail(torch.relu(self.behind(y * torch.sigmoid(self.wide(y)))))


def test_channels_that_meet_a_gate_stay_and_the_others_move() -> None:
    torch.manual_seed(0)
    example = torch.rand(1, 3, 12, 12)
    graph = capture(Gated(), example)
    patterns = dict.fromkeys(("body", "gate", "behind", "tail"), Sparsity.parse("2:4"))
    found = permute(graph, sparse_weights(graph, LayerTable.from_graph(graph, example), patterns), example)
    assert largest_difference(graph, found.graph, torch.rand(2, 3, 9, 14)) < 1e-5
    assert found.moved > 4
    unmoved = {name: tensor(graph, f"{name}.bias") for name in ("body", "gate")}
    assert all(torch.equal(tensor(found.graph, f"{name}.bias"), bias) for name, bias in unmoved.items())


@pytest.mark.data
@pytest.mark.parametrize("name", ["rfdn_x4", "imdn_x4", "pan_x4", "rlfn_x4"])
def test_real_networks_compute_what_they_did(data: Path, name: str) -> None:
    loaded = load_checkpoint(data / "checkpoints" / f"{name}.pth")
    example = loaded.workload.example_input(32, 32)
    graph = prepare(capture(loaded.module, example))
    table = LayerTable.from_graph(graph, example)
    patterns = {n: d.pattern for n, d in decide(graph, table, Sparsity.parse("2:4")).items()}
    found = permute(graph, sparse_weights(graph, table, patterns), example, passes=1)
    assert found.after > found.before
    assert found.moved > 100
