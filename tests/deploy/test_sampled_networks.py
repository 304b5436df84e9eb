from __future__ import annotations

import pytest
import torch

from compress.layer_table import LayerTable
from deploy.profiling import grid_mixed, grid_names, grid_plans, grid_sizes, grid_subject
from deploy.profiling.sampled import sampled_network

SAMPLED = [name for name in grid_names() if name.startswith("grid-s")]


def test_a_seed_is_the_same_network_each_time_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = sampled_network(7).state_dict(), sampled_network(7).state_dict()
    assert torch.equal(torch.rand(1), expected)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("seed", range(0, len(SAMPLED), 5))
def test_it_enlarges_any_picture(seed: int) -> None:
    network = sampled_network(seed)
    with torch.no_grad():
        assert network(torch.rand(1, 3, 30, 41)).shape == (1, 3, 30 * network.scale, 41 * network.scale)


def test_the_networks_hold_what_super_resolution_is_made_of() -> None:
    convolutions = [
        m for seed in range(len(SAMPLED)) for m in sampled_network(seed).modules() if isinstance(m, torch.nn.Conv2d)
    ]
    assert {m.kernel_size[0] for m in convolutions} == {1, 3, 5}
    pairs = {(m.in_channels, m.out_channels) for m in convolutions if m.groups == 1}
    assert len(pairs) > 200
    assert sum(m.groups > 1 for m in convolutions) > 4
    scales = [sampled_network(seed).scale for seed in range(len(SAMPLED))]
    assert set(scales) == {2, 3, 4}


def test_sizes_and_plans_take_turns() -> None:
    plans = ("bf16", "fp32", "int8", "int8-fp32", "alternating", "mixed")
    assert grid_plans("grid-s00", plans) == ("bf16", "int8", "alternating")
    assert grid_plans("grid-s01", plans) == ("fp32", "int8-fp32", "mixed")
    sizes = [size for name in SAMPLED for size in grid_sizes(name)]
    assert all(len(set(grid_sizes(name))) == 2 for name in grid_names())
    assert min(sizes.count(size) for size in ((48, 48), (64, 64), (96, 96), (128, 128), (180, 320))) >= 6
    wide = [name for name in SAMPLED if sampled_network(int(name[-2:])).width > 64]
    assert all((180, 320) not in grid_sizes(name) for name in wide)
    assert len({grid_mixed(name) for name in grid_names()}) == len(grid_names())


def test_a_sampled_network_is_captured_with_its_layers() -> None:
    subject = grid_subject("grid-s03")
    rows = LayerTable.from_graph(subject.graph, subject.example).rows
    network = sampled_network(3)
    convolutions = {name for name, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)}
    # A 1x1 convolution that nothing separates from the next one is folded into it.
    assert {row.name for row in rows} <= convolutions
    assert len(convolutions) - len(rows) <= 2
