"""Narrowing: what is cut goes together, what is redundant costs nothing, and what is left computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from compress.channel_ties import removable_classes, tied_channels
from compress.equality import prove_equal
from compress.graph import capture, layer_nodes, set_tensor, tensor
from compress.narrowing import Narrowing, cut_channels
from compress.preparation import prepare

SHAPE = (1, 3, 12, 12)


class Gated(nn.Module):
    """A sum, a gate and a concatenation over 10 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 10, 1)
        self.gate, self.slopes = nn.Conv2d(10, 10, 1), nn.PReLU(10)
        self.last = nn.Conv2d(20, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.slopes(self.first(x))
        b = torch.relu(self.second(a)) + a
        c = b * torch.sigmoid(self.gate(b))
        return nn.functional.pixel_shuffle(self.last(torch.cat([c, a], 1)), 2)


class Split(nn.Module):
    """Channels that are counted: by a split, a group and the network's output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, 10, 3), nn.Conv2d(10, 10, 3, groups=10)
        self.second, self.last = nn.Conv2d(4, 10, 1), nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, _ = torch.split(self.depthwise(self.first(x)), [4, 6], 1)
        return self.last(torch.relu(self.second(a)))


def graph_of(module: nn.Module) -> torch.fx.GraphModule:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return prepare(capture(module.eval(), torch.randn(SHAPE)))


def test_sums_gates_and_concatenations_tie_channels() -> None:
    graph = graph_of(Gated())
    channels = tied_channels(graph)
    made = {name: channels[node.name].tolist() for name, node in layer_nodes(graph)}
    # `second` was absorbed into nothing: its relu stands between. All four make the same ten channels.
    assert made["first"] == made["second"] == made["gate"]
    assert set(made["last"]) == {-1}
    classes = removable_classes(channels)
    # In the concatenation each of them is there twice, so that none can go alone.
    assert [c for c in classes if set(c) & set(made["first"])] == []


def test_what_counts_channels_keeps_them() -> None:
    graph = graph_of(Split())
    found = Narrowing(graph, torch.randn(4, *SHAPE[1:]), step=8, most=0.3)
    assert [each.layers for each in found.classes] == [("second",)]
    narrowed = found.cut(found.classes)
    assert narrowed.widths == {"second": (10, 8)}
    assert narrowed.graph(torch.randn(SHAPE)).shape == graph(torch.randn(SHAPE)).shape


class Plain(nn.Module):
    """Two layers with 10 channels between them, and a gate from a narrow tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.slopes = nn.Conv2d(3, 10, 3, padding=1), nn.PReLU(10)
        self.weigh, self.last = nn.Conv2d(10, 1, 1), nn.Conv2d(10, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.slopes(self.first(x))
        return self.last(a * torch.sigmoid(self.weigh(a)))


def test_channels_that_others_tell_cost_nothing() -> None:
    graph = graph_of(Plain())
    with torch.no_grad():
        first, bias, slopes = (tensor(graph, name).clone() for name in ("first.weight", "first.bias", "slopes.weight"))
        # Channel 3 is twice channel 5, and channel 8 is dead; PReLU commutes with a positive factor.
        first[3], bias[3], slopes[3] = 2 * first[5], 2 * bias[5], slopes[5]
        first[8], bias[8] = 0.0, 0.0
    for name, value in (("first.weight", first), ("first.bias", bias), ("slopes.weight", slopes)):
        set_tensor(graph, name, value)
    inputs = torch.randn(16, *SHAPE[1:], generator=torch.Generator().manual_seed(1))
    found = Narrowing(graph, inputs, step=8, most=0.3)
    assert [set(each.layers) for each in found.classes] == [{"first"}]
    narrowed = found.cut(found.classes)
    gone = set(range(10)) - set(next(iter(narrowed.kept.values())))
    assert 8 in gone
    assert gone & {3, 5}
    prove_equal(graph, narrowed.graph, torch.randn(SHAPE), tolerance=1e-4)
    assert tensor(narrowed.graph, "slopes.weight").shape == (8,)
    again = cut_channels(graph, narrowed.kept)
    assert {n: v.shape for n, v in again.state_dict().items()} == {
        n: v.shape for n, v in narrowed.graph.state_dict().items()
    }


def smooth(count: int, seed: int) -> Tensor:
    """Images whose pixels resemble their neighbours, so that channels tell each other."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, SHAPE[2:], mode="bilinear")


def test_compensation_is_better_than_none() -> None:
    graph = graph_of(Plain())
    found = Narrowing(graph, smooth(16, 1), step=8, most=0.3)
    narrowed = found.cut(found.classes)
    x = smooth(8, 2)
    with torch.no_grad():
        wanted = graph(x)
        told, silent = ((g(x) - wanted).square().mean() for g in (narrowed.graph, cut_channels(graph, narrowed.kept)))
    assert told < 0.5 * silent


def test_nothing_is_cut_that_nobody_asked_for() -> None:
    graph = graph_of(Plain())
    inputs = torch.randn(2, *SHAPE[1:])
    assert Narrowing(graph, inputs, step=5, most=0.5).classes == []
    assert Narrowing(graph, inputs, step=8, most=0.1).classes == []
    nothing = Narrowing(graph, inputs, step=8, most=0.3).cut([])
    assert nothing.widths == {}
    prove_equal(graph, nothing.graph, torch.randn(SHAPE))
    with pytest.raises(UsageError, match="share below 1"):
        Narrowing(graph, inputs, step=8, most=1.0)
