"""What a supernet begins with: first scales of activations, and batch norms of any number of dimensions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.graph import capture
from search.eqnet.elastic import ElasticActivation
from search.eqnet.export import Target, export
from search.eqnet.forms import FORMS
from search.eqnet.norms import Calibrator
from search.eqnet.space import ElasticSpace
from search.eqnet.supernet import Supernet, trainable_graph
from tests.search.eqnet.helpers import BITS, images, supernet_of


def test_first_scales_of_activations_are_those_of_all_positions() -> None:
    """Values at a fixed distance come from one column of an image, and say nothing of its inside."""
    network = nn.Sequential(nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    x = torch.randn(8, 16, 32, 32, generator=torch.Generator().manual_seed(4))
    x[..., 0, :] = x[..., :, 0] = x[..., -1, :] = x[..., :, -1] = 5.0
    graph = trainable_graph(capture(network, x[:1]))
    made = [Supernet(graph, ElasticSpace.of(graph, BITS, pinned={"2"})) for _ in range(2)]
    for supernet in made:
        supernet.fit(x)
    layer = made[0].space.layers[0]
    found, wanted = made[0].activations[layer.source], ElasticActivation(layer.activation_bits)
    wanted.fit(x)
    for key, scale in wanted.log_scale.items():
        ratio = float((found.log_scale[key] - scale).detach().exp())
        assert ratio == pytest.approx(1.0, rel=0.05), key
    assert all(torch.equal(value, made[1].state_dict()[name]) for name, value in made[0].state_dict().items())


def test_norms_may_have_any_number_of_dimensions() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=1.0)
            self.hidden, self.flat, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=1.0), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(self.conv(x)).relu().mean((2, 3))
            return self.last(self.flat(self.hidden(y)).relu())

    x = images()
    network = Flat().train()
    with torch.no_grad():
        network(x)
    graph = trainable_graph(capture(network.eval(), x[:1]))
    supernet = supernet_of(graph, x)
    configuration = supernet.space.uniform(8, FORMS[7])
    Calibrator(supernet, x).choose(configuration)
    with torch.no_grad():
        exact, found = graph(x), export(supernet, configuration, Target("test")).simulate()(x)
    assert len(supernet.norms) == 2
    assert float((found - exact).norm() / exact.norm()) < 0.2
