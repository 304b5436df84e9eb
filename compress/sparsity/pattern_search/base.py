"""PatternSearch: what a search for patterns does around the steps of a training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import WeightLayout


@dataclass(frozen=True)
class Searched:
    """A weight whose N is searched: how it lies, its M, and its share of what all of them cost when dense."""

    layout: WeightLayout
    m: int
    share: float


class PatternSearch(ABC):
    """N of each weight, from M down, until the cost of all is at most `budget` (a share of the dense cost).

    `modules` hold each weight as their parameter `weight`; a search parametrises them and is part of them from then on.
    """

    def __init__(self, modules: Mapping[str, nn.Module], searched: Mapping[str, Searched], budget: float) -> None:
        self.modules, self.searched, self.budget = dict(modules), dict(searched), budget

    @abstractmethod
    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of the network's own parameters and of what the search adds."""

    @abstractmethod
    def kept(self) -> dict[str, int]:
        """N of each weight now, 1 to M."""

    def penalty(self, task_loss: Tensor) -> Tensor | float:
        """What is added to the loss of a step."""
        del task_loss
        return 0.0

    @abstractmethod
    def begin(self, step: int, total: int) -> None:
        """Ahead of the forward pass of step `step` of `total`."""

    def after_backward(self, step: int) -> None:
        """Behind the averaging of gradients."""
        del step

    @property
    def cost(self) -> float:
        """The cost now, as a share of the dense one."""
        return sum(self.searched[name].share * n / self.searched[name].m for name, n in self.kept().items())

    @property
    def done(self) -> bool:
        """Whether the budget is kept."""
        return self.cost <= self.budget

    def patterns(self) -> dict[str, Sparsity]:
        """N:M of each weight now."""
        return {name: Sparsity(n=n, m=self.searched[name].m) for name, n in self.kept().items()}

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What of the search a stopped training needs, besides parameters."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
