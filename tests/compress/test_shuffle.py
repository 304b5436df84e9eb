from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.equality import largest_difference
from compress.graph import capture
from compress.shuffle import move_activation_before_shuffle


def order(graph):
    return [str(n.target).split(".")[1] for n in graph.graph.nodes if n.op == "call_function"]


POINTWISE = [nn.ReLU(), nn.LeakyReLU(0.1), nn.PReLU(1), nn.Sigmoid(), nn.Tanh(), nn.Hardtanh()]


@pytest.mark.parametrize("activation", POINTWISE)
def test_the_activation_moves_and_nothing_changes(activation):
    net = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2), activation, nn.Conv2d(3, 3, 1))
    graph = capture(net, torch.rand(1, 3, 8, 8))
    moved, record = move_activation_before_shuffle(graph)
    inputs = torch.randn(2, 3, 9, 7)
    assert len(record.moved) == 1
    assert order(moved)[2] == "pixel_shuffle"
    assert order(graph)[1] == "pixel_shuffle"
    assert (
        largest_difference(graph, moved, inputs) < 1e-6
    )  # vector and tail code of one function differ in the last bit


def test_slopes_per_channel_stay_behind_the_shuffle():
    net = nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2), nn.PReLU(3))
    _, record = move_activation_before_shuffle(capture(net, torch.rand(1, 3, 8, 8)))
    assert record.moved == ()
