"""Small networks, with and without batch norms, and their supernets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, fx

from compress.graph import capture
from search.eqnet.forms import OffsetMode
from search.eqnet.space import ElasticSpace
from search.eqnet.supernet import Supernet, trainable_graph
from workloads.classification.models.resnet import ResNet, ResNetConfig
from workloads.super_resolution.models.plain import PlainSR, PlainSRConfig

SIDE = 16
BITS = (2, 4, 8)


@cache
def resnet_graph() -> fx.GraphModule:
    """A ResNet of 8 layers, 4 channels, with statistics and gains of both signs."""
    torch.manual_seed(0)
    network = ResNet(ResNetConfig(blocks=1, width=4)).train()
    with torch.no_grad():
        network(torch.randn(16, 3, SIDE, SIDE))
        network.layer1[0].bn1.weight[0] = -0.7
        network.layer2[0].bn2.weight[1] = -1.2
    return trainable_graph(capture(network.eval(), torch.randn(1, 3, SIDE, SIDE)))


@cache
def sr_graph() -> fx.GraphModule:
    """A network without norms that enlarges two times."""
    torch.manual_seed(0)
    network = PlainSR(PlainSRConfig(scale=2, width=6, depth=3)).eval()
    return trainable_graph(capture(network, torch.rand(1, 3, SIDE, SIDE)))


def images(count: int = 16, seed: int = 0) -> Tensor:
    """Inputs of the ResNet, [count, 3, SIDE, SIDE]."""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def supernet_of(
    graph: fx.GraphModule, inputs: Tensor, bits: Sequence[int] = BITS, mode: OffsetMode = OffsetMode.INTEGER
) -> Supernet:
    """A supernet, fitted."""
    made = Supernet(graph, ElasticSpace.of(graph, bits), mode)
    made.fit(inputs)
    return made
