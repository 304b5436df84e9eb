"""Second-order pruning: patterns hold, masked least squares are exact, and less is lost than by norms alone."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from compress.graph import capture, clone, layer_nodes, set_tensor, tensor
from compress.layer_table import LayerTable
from compress.nm_pattern import Sparsity
from compress.preparation import prepare
from compress.sparsity.eligibility import decide
from compress.sparsity.layouts import LayerKind, WeightLayout
from compress.sparsity.legality import check
from compress.sparsity.masked_least_squares import conjugate_gradients, solve
from compress.sparsity.one_shot import pruned, sparse_weights
from compress.sparsity.second_order import prune
from workloads.loading import load_checkpoint


class Net(nn.Module):
    """Groups, strides, padding by name, a shared layer, a layer without bias, a transposed one and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.named = nn.Conv2d(16, 16, (3, 2), padding="same", dilation=2)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=2, stride=2)
        self.bare = nn.Conv2d(32, 16, 1, bias=False)
        self.shared = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.last = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.named(torch.relu(self.head(x))))
        x = torch.relu(self.bare(torch.relu(self.grouped(x))))
        x = x + torch.relu(self.shared(torch.relu(self.shared(x))))
        return self.last(self.up(x).movedim(1, -1)).movedim(-1, 1)


PRUNED = ("named", "grouped", "bare", "shared", "up", "last")


def _network(pattern: Sparsity) -> tuple[fx.GraphModule, LayerTable, dict[str, Sparsity | None], Tensor]:
    torch.manual_seed(0)
    # Pictures are smooth, which is what weights can make up for each other by.
    inputs = nn.functional.interpolate(torch.rand(24, 3, 6, 6), scale_factor=4, mode="bicubic")
    graph = capture(Net(), inputs[:1])
    table = LayerTable.from_graph(graph, inputs[:1])
    patterns: dict[str, Sparsity | None] = {
        name: pattern if name.partition("#")[0] in PRUNED else None for name, _ in layer_nodes(graph)
    }
    return graph, table, patterns, inputs


@pytest.mark.parametrize("text", ["2:4", "1:8"])
def test_every_kind_of_layer_keeps_its_pattern_with_less_damage(text: str) -> None:
    graph, table, patterns, inputs = _network(Sparsity.parse(text))
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    wanted = sparse_weights(graph, table, patterns)
    assert len(wanted) == len(PRUNED)
    found = prune(graph, wanted, inputs)
    for name, (pattern, layout) in wanted.items():
        assert check(tensor(found, name), pattern, layout).holds, name
    plain = pruned(graph, table, patterns, inputs)
    unseen = nn.functional.interpolate(torch.rand(8, 3, 6, 6), scale_factor=4, mode="bicubic")
    with torch.no_grad():
        aim = graph(unseen)
        damage, of_norms = ((aim - net(unseen)).square().mean() for net in (found, plain))
    assert float(damage) < 0.5 * float(of_norms)
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())


def test_a_layer_makes_up_for_what_was_lost_before_it(data: Path) -> None:
    """Six layers pruned one behind the other lose less than each pruned as if it were the only one."""
    loaded = load_checkpoint(data / "checkpoints" / "fsrcnn_x4.pth")
    workload = loaded.workload
    example = workload.example_input(32, 32)
    graph = prepare(capture(loaded.module, example))
    table = LayerTable.from_graph(graph, example)
    patterns = {name: each.pattern for name, each in decide(graph, table, Sparsity.parse("2:4")).items()}
    wanted = sparse_weights(graph, table, patterns)
    inputs = workload.calibration(data / "sr" / "train", 32, 64)
    together, apart = prune(graph, wanted, inputs), clone(graph)
    assert len(wanted) == 6
    for name, one in wanted.items():
        alone = prune(graph, {name: one}, inputs)
        for changed in (name, name.replace("weight", "bias")):
            set_tensor(apart, changed, tensor(alone, changed))
    samples = workload.samples(data / "sr" / "test" / "Set5")
    assert workload.evaluate(together, samples).mean > workload.evaluate(apart, samples).mean + 0.1


def test_what_is_not_pruned_stays_as_it_is() -> None:
    graph, table, patterns, inputs = _network(Sparsity.parse("2:4"))
    wanted = sparse_weights(graph, table, patterns)
    first = next(iter(wanted))
    alone = prune(graph, {first: wanted[first]}, inputs)
    for name in graph.state_dict():
        changed = name in {first, first.replace("weight", "bias")}
        assert changed != torch.equal(tensor(alone, name), tensor(graph, name)), name


def test_short_groups_are_solved_too() -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(31, 300, generator=draw, dtype=torch.float64)
    hessian, weight = x @ x.T, torch.randn(6, 31, generator=draw, dtype=torch.float64)
    # Ten channels at three kernel positions, and a bias behind them.
    found = solve(weight @ hessian, hessian, Sparsity.parse("2:4"), 10)
    assert bool((found[:, 30] != 0).all())
    assert check(found[:, :30].reshape(6, 10, 3, 1), Sparsity.parse("2:4"), WeightLayout(LayerKind.CONV)).holds
    by_position = (found[:, :30].reshape(6, 10, 3) != 0).sum(1)
    assert bool((by_position == 6).all()), "two of four, two of four, and both of the last two"


def test_conjugate_gradients_are_the_least_squares_of_the_kept_weights() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(12, 200, generator=draw, dtype=torch.float64)
    hessian, target = x @ x.T, torch.randn(5, 12, generator=draw, dtype=torch.float64)
    kept = torch.rand(5, 12, generator=draw) < 0.6
    found = conjugate_gradients(hessian, target, kept)
    for row in range(5):
        own = kept[row]
        exact = torch.linalg.solve(hessian[own][:, own], target[row, own])
        torch.testing.assert_close(found[row, own], exact)
        assert not found[row, ~own].any()


def test_one_group_is_solved_nearly_as_well_as_by_trying_all_masks() -> None:
    """Of the six masks of 2:4, the chosen one is seldom far from the best: on average within a tenth of its damage."""
    draw = torch.Generator().manual_seed(1)
    mixing = torch.randn(4, 4, generator=draw, dtype=torch.float64)
    x = mixing @ torch.randn(4, 400, generator=draw, dtype=torch.float64)
    hessian, weight = x @ x.T, torch.randn(64, 4, generator=draw, dtype=torch.float64)
    found = solve(weight @ hessian, hessian, Sparsity.parse("2:4"), 4)
    assert bool(((found != 0).sum(1) == 2).all())
    best = torch.full((64,), torch.inf, dtype=torch.float64)
    for pair in combinations(range(4), 2):
        mask = torch.zeros(64, 4, dtype=torch.bool)
        mask[:, pair] = True
        best = torch.minimum(best, _damage(conjugate_gradients(hessian, weight @ hessian, mask), weight, hessian))
    assert float((_damage(found, weight, hessian) / best).mean()) < 1.1


def _damage(found: Tensor, weight: Tensor, hessian: Tensor) -> Tensor:
    difference = found - weight
    return ((difference @ hessian) * difference).sum(1)


def test_a_super_resolution_network_loses_far_less(data: Path) -> None:
    loaded = load_checkpoint(data / "checkpoints" / "espcn_x2.pth")
    workload = loaded.workload
    example = workload.example_input(32, 32)
    graph = prepare(capture(loaded.module, example))
    table = LayerTable.from_graph(graph, example)
    patterns = {name: each.pattern for name, each in decide(graph, table, Sparsity.parse("2:4")).items()}
    inputs = workload.calibration(data / "sr" / "train", 32, 64)
    samples = workload.samples(data / "sr" / "test" / "Set5")
    dense, by_norm, solved = (
        workload.evaluate(net, samples).mean
        for net in (
            graph,
            pruned(graph, table, patterns, inputs),
            prune(graph, sparse_weights(graph, table, patterns), inputs),
        )
    )
    assert dense - solved < 0.06
    assert dense - by_norm > 0.12
