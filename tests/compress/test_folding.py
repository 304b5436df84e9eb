from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.equality import largest_difference
from compress.folding import fold
from compress.graph import capture, layer_nodes
from workloads.loading import load_checkpoint


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    layer.running_mean = torch.randn(channels)
    layer.running_var = torch.rand(channels) + 0.2
    nn.init.uniform_(layer.weight, 0.5, 2.0)
    nn.init.normal_(layer.bias)
    return layer


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8), nn.ReLU(), nn.Dropout(0.5))
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), norm(8))
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2, bias=False), norm(6))
        self.lone = norm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.up(self.lone(self.body(x) + x.clone()))


def test_batch_norms_behind_layers_are_folded_and_lone_ones_stay():
    torch.manual_seed(0)
    graph = capture(Residual(), torch.rand(1, 3, 16, 16))
    inputs = torch.rand(2, 3, 18, 14)
    kept = graph(inputs)
    folded, record = fold(graph)
    assert len(record.batch_norms) == 3
    assert sum("batch_norm" in str(n.target) for n in folded.graph.nodes) == 1
    assert len(record.identities) == 2
    assert largest_difference(graph, folded, inputs) < 1e-6
    assert torch.equal(graph(inputs), kept)
    assert "stem.1.running_mean" not in folded.state_dict()
    assert [name for name, _ in layer_nodes(folded)] == ["stem.0", "body.0", "up.0"]


@pytest.mark.parametrize(("padding", "shift", "count"), [(1, True, 0), (0, True, 1), (1, False, 1)])
def test_a_shift_is_folded_forward_only_where_no_padding_sees_it(padding, shift, count):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=shift), nn.Conv2d(3, 8, 3, padding=padding))
    graph = capture(net, torch.rand(1, 3, 16, 16))
    folded, record = fold(graph)
    assert len(record.convolutions) == count
    assert largest_difference(graph, folded, torch.rand(2, 3, 16, 18)) < 1e-6


def test_a_shift_behind_a_convolution_is_folded_back():
    torch.manual_seed(0)
    graph = capture(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 1)), torch.rand(1, 3, 16, 16))
    folded, record = fold(graph)
    assert record.convolutions == ("conv2d_1",)
    assert largest_difference(graph, folded, torch.rand(2, 3, 16, 18)) < 1e-6


def test_carn_keeps_its_function(data):
    graph = capture(load_checkpoint(data / "checkpoints" / "carn_m_x234.pth", scale=4).module, torch.rand(1, 3, 24, 24))
    folded, _ = fold(graph)
    assert largest_difference(graph, folded, torch.rand(1, 3, 24, 32)) < 1e-5
