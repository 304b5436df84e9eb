"""Searches for N while a network trains: what each step does, budgets that are kept, stops that change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.data import Dataset

from bitwright.foundation.errors import UsageError
from compress.graph import capture, tensor
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import LayerKind, WeightLayout
from compress.sparsity.masks import nm_mask
from compress.sparsity.pattern_search import Domino, Found, Learned, Searched, SearchSettings, search_patterns
from compress.sparsity.pattern_search.domino import erdos_renyi_kernel
from compress.sparsity.pattern_search.learned import RankedWeight
from compress.training.processes import processes

CONV = WeightLayout(LayerKind.CONV, 1)
M = 8


class Net(nn.Module):
    """`needed` carries the output; `idle` adds next to nothing to it, so that it can do with fewer weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.needed = nn.Conv2d(16, 16, 3, padding=1)
        self.idle = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.last(self.needed(y) + 1e-3 * self.idle(y))


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        x = torch.rand(3, 12, 12, generator=generator)
        with torch.no_grad():
            # What no network of this size can explain.
            return x, self.graph(x[None])[0] + 0.05 * torch.randn(3, 12, 12, generator=generator)


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    torch.manual_seed(0)
    return capture(Net().eval(), torch.rand(1, 3, 12, 12))


SEARCHED = {f"{name}.weight": Searched(CONV, M, 0.5) for name in ("needed", "idle")}


def searched(graph: fx.GraphModule, settings: SearchSettings, path: Path | None = None) -> Found:
    torch.manual_seed(1)
    with processes() as group:
        return search_patterns(
            graph, SEARCHED, Pictures(graph), nn.functional.mse_loss, settings, group, path=path
        )  # fmt: skip


def test_ranks_keep_what_a_mask_of_n_keeps() -> None:
    weight = torch.randn(6, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    ranked = RankedWeight(weight, CONV, M)
    for n in range(1, M + 1):
        with torch.no_grad():
            ranked.score.copy_(torch.tensor([1.0] * (n - 1) + [0.1] * (M - n)))
        assert ranked.kept() == n
        assert torch.equal(ranked(weight) != 0, nm_mask(weight.abs(), Sparsity(n=n, m=M), CONV))


def test_scores_get_the_gradient_of_their_products() -> None:
    weight = torch.tensor([3.0, -2.0, 1.0, 0.5]).reshape(1, 4, 1, 1)
    ranked = RankedWeight(weight, CONV, 4)
    with torch.no_grad():
        ranked.score.copy_(torch.tensor([0.9, 0.8, 0.5]))
    (ranked(weight).sum()).backward()
    # Products 0.9, 0.72, 0.36 stand for the weights -2, 1 and 0.5; the last one is pruned and still tells its use.
    wanted = torch.tensor([-2 + 0.8 + 0.4 * 0.5, 0.9 + 0.9 * 0.5 * 0.5, 0.72 * 0.5])
    torch.testing.assert_close(ranked.score.grad, wanted)
    assert ranked.kept() == 3


@pytest.mark.parametrize("kind", ["sls", "domino"])
def test_the_budget_is_kept_and_the_idle_layer_pays_for_it(graph: fx.GraphModule, kind: str) -> None:
    before = {name: tensor(graph, name).clone() for name in SEARCHED}
    found = searched(graph, SearchSettings(kind, budget=0.6, steps=300, batch=4))
    assert found.trimmed == ()
    assert found.cost <= 0.6
    assert found.steps < 300
    assert found.patterns["idle.weight"].n <= found.patterns["needed.weight"].n
    if kind == "domino":
        assert {p.n for p in found.patterns.values()} <= {1, 2, 4, 8}
    for name, weight in before.items():
        assert torch.equal(tensor(graph, name), weight)


@pytest.mark.parametrize("kind", ["sls", "domino"])
def test_a_search_that_was_stopped_goes_on_to_the_same_result(graph: fx.GraphModule, tmp_path: Path, kind: str) -> None:
    settings = SearchSettings(kind, budget=0.3, steps=60, batch=2)
    whole = searched(graph, settings)

    class StopError(Exception):
        pass

    class Stopping(Pictures):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            if index >= 2 * 30:
                raise StopError
            return super().__getitem__(index)

    path = tmp_path / "search.safetensors"
    with pytest.raises(StopError), processes() as group:
        search_patterns(graph, SEARCHED, Stopping(graph), nn.functional.mse_loss, settings, group, path=path)
    again = searched(graph, settings, path)
    assert (again.patterns, again.cost, again.trimmed) == (whole.patterns, whole.cost, whole.trimmed)
    with pytest.raises(UsageError, match="another network"):
        searched(graph, SearchSettings(kind, budget=0.4, steps=60, batch=2), path)


def test_what_the_steps_do_not_reach_is_trimmed_by_magnitude_and_told(graph: fx.GraphModule) -> None:
    found = searched(graph, SearchSettings("domino", budget=0.2, steps=1, batch=2))
    assert found.trimmed
    assert found.cost <= 0.2
    assert found.steps == 1


def test_domino_counts_groups_below_their_first_thresholds() -> None:
    layer = nn.Conv2d(8, 1, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([8.0, 7, 6, 5, 4, 3, 2, 1]).reshape(1, 8, 1, 1))
    search = Domino({"a": layer}, {"a": Searched(CONV, 8, 1.0)}, 0.5, check_every=1)
    assert search.thresholds["a"].tolist() == [2.5]
    # Six weights are above it: N goes down by one a check until it is six, and the mask stays dense on the way.
    for step in range(1, 6):
        search.begin(step, 100)
    assert search.counted["a"] == 6
    assert search.kept() == {"a": 8}
    master = layer.parametrizations["weight"].original  # type: ignore[index]
    with torch.no_grad():
        master[0, 3:] = 0.1
    for step in range(6, 12):
        search.begin(step, 100)
    assert search.kept() == {"a": 4}
    assert search.done
    assert int((layer.weight != 0).sum()) == 4


def test_scores_are_clamped_and_the_pressure_grows_where_nothing_moves() -> None:
    layer = nn.Conv2d(8, 4, 1)
    search = Learned({"a": layer}, {"a": Searched(CONV, 8, 1.0)}, 0.5, patience=2)
    with torch.no_grad():
        search.ranked["a"].score.fill_(2.0)
    for step in range(5):
        search.begin(step, 100)
    assert float(search.ranked["a"].score.detach().max()) == pytest.approx(1.03)
    assert search.growth == pytest.approx(1.44)
    loss = torch.tensor(2.0)
    assert float(search.penalty(loss).detach()) == pytest.approx(0.1 * 1.44 * 2.0)


def test_the_kernel_allocation_has_the_budget_on_average_and_keeps_small_layers_dense() -> None:
    weights = {"small": torch.zeros(4, 4, 1, 1), "large": torch.zeros(64, 64, 3, 3)}
    total = sum(w.numel() for w in weights.values())
    parts = {n: Searched(CONV, 4, w.numel() / total) for n, w in weights.items()}
    density = erdos_renyi_kernel(weights, parts, 0.25)
    assert density["small"] == 1.0
    assert sum(parts[n].share * d for n, d in density.items()) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"kind": "magic"}, "one of domino, sls"), ({"budget": 1.0}, "a budget in"), ({"steps": 0}, "at least 1")],
)
def test_settings_out_of_range_are_named(change: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SearchSettings(**{"kind": "sls", **change})  # type: ignore[arg-type]
