"""Domino: groups lose weights until the layer follows, after DominoSearch (Sun et al., NeurIPS 2021).

From a dense network, N_l = M. In each group a threshold is fixed at the start: the mean of its M/2 smallest magnitudes.
Weights that are kept are pulled towards zero, more in layers that an Erdos-Renyi-Kernel allocation would prune further
and that cost more. Where at least 75 % of a layer's groups have fewer than N_l weights above their thresholds, N_l
becomes N_l - 1; masks follow when N_l is a power of two.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compress.nm_pattern import Sparsity
from compress.sparsity.action import Action
from compress.sparsity.masks import Scored, nm_mask
from compress.sparsity.pattern_search.base import PatternSearch, Searched
from compress.sparsity.sparse_weight import SparseWeight

SHARE_OF_GROUPS = 0.75
PULL_EVERY = 5
"""Steps between two pulls."""
PUBLISHED_STEPS = 60_000
"""Steps for which the published strength of the pull, 0.1, is meant; shorter trainings pull more in proportion."""
DOUBLED_FROM, DOUBLED_EVERY = 0.5, 1 / 6
"""Shares of the training from which, and after each of which, the pull is doubled: 30 000 and 10 000 steps of it."""


class Domino(PatternSearch):
    """`pull`: lambda at the published length. `rate`: of plain gradient descent, without momentum."""

    def __init__(self, modules: Mapping[str, nn.Module], searched: Mapping[str, Searched], budget: float, *,
                 pull: float = 0.1, rate: float = 1e-2, check_every: int = 10) -> None:  # fmt: skip
        super().__init__(modules, searched, budget)
        self.pull, self.rate, self.check_every, self.total = pull, rate, check_every, 0
        self.counted = {name: one.m for name, one in searched.items()}
        self.committed = dict(self.counted)
        self.sparse: dict[str, SparseWeight] = {}
        self.thresholds: dict[str, Tensor] = {}
        for name, one in searched.items():
            weight = self.modules[name].weight
            assert isinstance(weight, Tensor)
            grouped = Scored(weight.detach().abs(), one.layout).grouped(one.m)
            self.thresholds[name] = grouped.sort(0).values[: max(1, one.m // 2)].mean(0)
            self.sparse[name] = SparseWeight(weight)
            parametrize.register_parametrization(self.modules[name], "weight", self.sparse[name])
        self.wanted = erdos_renyi_kernel(self._masters(), searched, budget)

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Plain gradient descent."""
        return torch.optim.SGD(parameters, lr=self.rate)

    def kept(self) -> dict[str, int]:
        """N of each weight's mask now: a power of two, or M."""
        return dict(self.committed)

    def begin(self, step: int, total: int) -> None:
        """Count and commit where it is due, and refresh the masks."""
        self.total = total
        masters = self._masters()
        for name, one in self.searched.items():
            if step and step % self.check_every == 0 and not self.done:
                self._count(name, masters[name])
            n = self.committed[name]
            if n < one.m:
                pattern = Sparsity(n=n, m=one.m)
                self.sparse[name].set(Action(pattern, restricted=True))
                self.sparse[name].mask.copy_(nm_mask(masters[name].abs(), pattern, one.layout))

    def after_backward(self, step: int) -> None:
        """Every few steps, pull what is kept towards zero."""
        if step % PULL_EVERY or self.done:
            return
        share = step / max(1, self.total)
        doublings = 0 if share < DOUBLED_FROM else int((share - DOUBLED_FROM) / DOUBLED_EVERY) + 1
        strength = self.pull * max(1.0, PUBLISHED_STEPS / max(1, self.total)) * 2.0**doublings
        # A pull takes at most half of a weight.
        strength = min(strength, 0.5 / self.rate)
        left = {n: max(0.0, 1 - self.wanted[n] - (1 - self.committed[n] / s.m)) for n, s in self.searched.items()}
        most_left = max(left.values()) or 1.0
        most_cost = max(one.share for one in self.searched.values())
        for name, weight in self._masters().items():
            if weight.grad is not None:
                scale = 0.5 * left[name] / most_left + 0.5 * self.searched[name].share / most_cost
                pulled = weight.detach() * self.sparse[name].mask if self.sparse[name].active else weight.detach()
                weight.grad.add_(pulled, alpha=strength * scale)

    def tensors(self) -> dict[str, Tensor]:
        """Thresholds and the counts."""
        counts = torch.tensor([[self.counted[n], self.committed[n]] for n in self.searched])
        return {"counts": counts, **{f"threshold.{n}": t for n, t in self.thresholds.items()}}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        for name, (counted, committed) in zip(self.searched, tensors["counts"].tolist(), strict=True):
            self.counted[name], self.committed[name] = counted, committed
            self.thresholds[name] = tensors[f"threshold.{name}"].to(self.thresholds[name].device)

    def _count(self, name: str, weight: Tensor) -> None:
        one, n = self.searched[name], self.counted[name]
        if n == 1:
            return
        grouped = Scored(weight.detach().abs(), one.layout).grouped(one.m)
        above = (grouped > self.thresholds[name]).sum(0)
        if float((above < n).float().mean()) >= SHARE_OF_GROUPS:
            self.counted[name] = n - 1
            if (n - 1) & (n - 2) == 0:
                self.committed[name] = n - 1

    def _masters(self) -> dict[str, nn.Parameter]:
        found = {}
        for name in self.searched:
            holder = self.modules[name].parametrizations
            assert isinstance(holder, nn.ModuleDict)
            weight = holder["weight"].original
            assert isinstance(weight, nn.Parameter)
            found[name] = weight
        return found


def erdos_renyi_kernel(
    weights: Mapping[str, Tensor], searched: Mapping[str, Searched], budget: float
) -> dict[str, float]:
    """The density of each weight, `budget` on average: in proportion to (sum of its sizes) / (product), at most 1."""
    score = {name: sum(weight.shape) / max(1, weight.numel()) for name, weight in weights.items()}
    full: set[str] = set()
    while True:
        left = budget - sum(searched[name].share for name in full)
        weighed = sum(searched[name].share * score[name] for name in score if name not in full)
        scale = max(0.0, left) / weighed if weighed else 0.0
        over = {name for name in score if name not in full and scale * score[name] > 1.0}
        if not over:
            return {name: 1.0 if name in full else scale * score[name] for name in score}
        full |= over
