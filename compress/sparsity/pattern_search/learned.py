"""Learned: SLS. Scores p_1 ... p_(M-1) for each layer; the weight of rank i + 1 in a group is kept while
p_1 x ... x p_i > 0.5.

Rank 1 is the largest magnitude of a group and always kept, so that N = 1 + the number of products above 0.5. The
comparison passes gradients straight through (Oh et al., "Attentive fine-grained structured sparsity for image
restoration", CVPR 2022). The cost is a share of the dense one in place of raw MACs, whose weight in the loss would
depend on the size of the picture, and its weight is told relative to the loss of the first step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compress.sparsity.layouts import WeightLayout
from compress.sparsity.masks import Scored
from compress.sparsity.pattern_search.base import PatternSearch, Searched

LARGEST_SCORE = 1.03
"""Scores are clamped to 0 ... this after each step."""
THRESHOLD = 0.5


class RankedWeight(nn.Module):
    """Keeps the weights of the first N ranks. `rank`: int64, in the weight's shape, 0 for the largest of a group."""

    rank: Tensor

    def __init__(self, weight: Tensor, layout: WeightLayout, m: int) -> None:
        super().__init__()
        self.layout, self.m = layout, m
        self.score = nn.Parameter(torch.ones(m - 1, device=weight.device))
        self.register_buffer("rank", torch.zeros_like(weight, dtype=torch.int64))
        self.refresh(weight)

    def refresh(self, weight: Tensor) -> None:
        """Rank the weights of each group anew; of equal magnitudes the lower channel ranks first."""
        scored = Scored(weight.detach().abs(), self.layout)
        order = torch.argsort(scored.grouped(self.m), dim=0, descending=True, stable=True)
        self.rank.copy_(scored.ungrouped(torch.argsort(order, dim=0)))

    def keep(self) -> Tensor:
        """1 for each rank that is kept and 0 for the others, [M]; its gradient is that of the products of scores."""
        products = torch.cumprod(self.score, 0)
        hard = (products > THRESHOLD).to(products.dtype)
        return torch.cat([hard.new_ones(1), hard + products - products.detach()])

    def kept(self) -> int:
        """N."""
        return 1 + int((torch.cumprod(self.score.detach(), 0) > THRESHOLD).sum())

    def forward(self, weight: Tensor) -> Tensor:
        """The weight without what is not kept; pruned weights get no gradient."""
        return weight * self.keep()[self.rank].to(weight.dtype)


class Learned(PatternSearch):
    """`pressure`: weight of the cost, relative to the loss of the first step. `rate`, `score_rate`: Adam's, of network
    and scores. Every `patience` steps in which the cost moved by less than `least_move`, the pressure grows by 20 %.
    """  # fmt: skip

    def __init__(self, modules: Mapping[str, nn.Module], searched: Mapping[str, Searched], budget: float, *,
                 pressure: float = 0.1, rate: float = 1e-4, score_rate: float = 2e-3, refresh: int = 50,
                 patience: int = 20, least_move: float = 0.02) -> None:  # fmt: skip
        super().__init__(modules, searched, budget)
        self.pressure, self.rate, self.score_rate, self.refresh = pressure, rate, score_rate, refresh
        self.patience, self.least_move = patience, least_move
        self.first_loss, self.growth, self.last_cost = torch.zeros(()), 1.0, 1.0
        self.ranked: dict[str, RankedWeight] = {}
        for name, one in self.searched.items():
            weight = self.modules[name].weight
            assert isinstance(weight, Tensor)
            self.ranked[name] = RankedWeight(weight, one.layout, one.m)
            parametrize.register_parametrization(self.modules[name], "weight", self.ranked[name])

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam over both, each at its rate."""
        scores = [ranked.score for ranked in self.ranked.values()]
        own = {id(score) for score in scores}
        others = [p for p in parameters if id(p) not in own]
        return torch.optim.Adam([{"params": others, "lr": self.rate}, {"params": scores, "lr": self.score_rate}])

    def kept(self) -> dict[str, int]:
        """N of each weight now."""
        return {name: ranked.kept() for name, ranked in self.ranked.items()}

    def penalty(self, task_loss: Tensor) -> Tensor:
        """The differentiable cost, weighed."""
        if not float(self.first_loss):
            self.first_loss = task_loss.detach().clone()
        cost = sum(self.searched[n].share * r.keep().sum() / r.m for n, r in self.ranked.items())
        assert isinstance(cost, Tensor)
        return cost * (self.pressure * self.growth * float(self.first_loss))

    def begin(self, step: int, total: int) -> None:
        """Clamp the scores that the last step has moved; refresh ranks and pressure where they are due."""
        del total
        with torch.no_grad():
            for ranked in self.ranked.values():
                ranked.score.clamp_(0.0, LARGEST_SCORE)
        if step and step % self.refresh == 0:
            for name, ranked in self.ranked.items():
                holder = self.modules[name].parametrizations
                assert isinstance(holder, nn.ModuleDict)
                master = holder["weight"].original
                assert isinstance(master, Tensor)
                ranked.refresh(master)
        if step and step % self.patience == 0:
            if self.last_cost - self.cost < self.least_move:
                self.growth *= 1.2
            self.last_cost = self.cost

    def tensors(self) -> dict[str, Tensor]:
        """Ranks, and the scalars behind the pressure."""
        scalars = torch.tensor([float(self.first_loss), self.growth, self.last_cost], dtype=torch.float64)
        return {"scalars": scalars, **{f"rank.{name}": ranked.rank for name, ranked in self.ranked.items()}}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        first, self.growth, self.last_cost = tensors["scalars"].tolist()
        self.first_loss = torch.tensor(first)
        for name, ranked in self.ranked.items():
            ranked.rank.copy_(tensors[f"rank.{name}"])
