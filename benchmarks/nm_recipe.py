"""Recipe: what methods of N:M training are compared on: a network, its data, loss and score, and how it is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from compress.graph import capture
from compress.layer_table import LayerRow, LayerTable
from compress.nm_pattern import Sparsity
from compress.sparsity import decide
from compress.sparsity.cost import TrainedLayer
from compress.sparsity.eligibility import reduction_length
from compress.training.processes import Processes
from compress.training.samples import Pairs, batches
from workloads.workload import Predict

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Figure:
    """A figure of quality. `key`: in a score; `title`: its column, with the unit."""

    key: str
    title: str
    digits: int = 2


class Rates(StrEnum):
    """The course of the learning rate behind the warm-up."""

    COSINE = "cosine"
    """Half a cosine down to zero: little is learned behind the end of a decay."""
    CONSTANT = "constant"


@dataclass(frozen=True)
class Schedule:
    """How every arm of a recipe is trained; all of them alike.

    AdamW at `rate`, after a linear warm-up over a share of the steps as `rates` says. `clip`: of the
    gradient's norm. `one_shot_dense`: share of dense training ahead of one-shot pruning. `noise_every`: steps between
    two measurements of gradient noise, in the second half.
    """

    steps: int
    batch: int
    rate: float
    weight_decay: float = 0.01
    warm_up: float = 0.0
    clip: float | None = None
    one_shot_dense: float = 0.6
    noise_every: int = 60
    rates: Rates = Rates.COSINE


class Recipe(ABC):
    """One workload of the comparison. The figure that stands first in `figures` is the one that is compared.

    `device`: where its networks are trained and tested.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    figures: ClassVar[tuple[Figure, ...]]
    patterns: ClassVar[tuple[str, ...]]
    schedule: Schedule
    device: torch.device = CPU
    methods: ClassVar[tuple[str, ...]] = (
        "dense", "one_shot", "ste", "ste_frozen", "sr_ste", "sr_ste_frozen", "mdgf_linear", "mdgf_exponential",
        "mdgf_linear_ste", "mdgf_exponential_ste", "sdgf_stepwise", "sdgf_geometric",
    )  # fmt: skip

    @abstractmethod
    def network(self) -> nn.Module:
        """The network with weights drawn from torch's global generator."""

    @abstractmethod
    def example(self) -> Tensor:
        """An input of the size that is trained on, [1, ...]."""

    @abstractmethod
    def pairs(self, seed: int) -> Pairs:
        """Training pairs of an input and its target, in an order drawn by `seed`."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, []."""

    @abstractmethod
    def score(self, model: nn.Module) -> dict[str, float]:
        """Test figures by the keys of `figures`."""

    def kept_dense(self, rows: Sequence[LayerRow]) -> Iterable[str]:
        """Layers that are never pruned here, beside those that may not be (`compress.sparsity.eligibility`)."""
        del rows
        return ()

    def start(self, seed: int) -> nn.Module:
        """The network that all arms of a seed start from; the same at each call."""
        torch.manual_seed(seed)
        return self.network().to(self.device)

    def described(self) -> str:
        """What decides the result of an arm besides the arm itself, as part of a file name."""
        other = [self.device.type] if self.device != CPU else []
        other += [self.schedule.rates] if self.schedule.rates is not Rates.COSINE else []
        return "-".join([str(self.schedule.batch), *other])

    def remarks(self, results: Sequence[Mapping[str, Any]]) -> list[str]:
        """What must be known to read the tables."""
        del results
        return []

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless training batches, the same ones for every method."""
        for pair in batches(self.pairs(seed), self.schedule.batch, self.alone, 0, 0):
            yield pair[0].to(self.device), pair[1].to(self.device)

    def predict(self, model: nn.Module) -> Predict:
        """The model as a function from an input to its output, both on the host."""
        return lambda x: model(x.to(self.device)).cpu()

    @property
    def alone(self) -> Processes:
        """The only process of a training."""
        return Processes(0, 1, self.device)

    @cached_property
    def _captured(self) -> tuple[fx.GraphModule, LayerTable]:
        graph = capture(self.network(), self.example())
        return graph, LayerTable.from_graph(graph, self.example())

    @property
    def rows(self) -> tuple[LayerRow, ...]:
        """The layers of the network, with their MACs on a training sample."""
        return self._captured[1].rows

    def wanted(self, pattern: Sparsity) -> dict[str, Sparsity]:
        """The pattern of each layer that is pruned, by layer name, shortened where M does not divide the channels."""
        graph, table = self._captured
        found = decide(graph, table, pattern, dense=self.kept_dense(table.rows))
        return {name: decision.pattern for name, decision in found.items() if decision.pattern is not None}

    def accounts(self, patterns: Mapping[str, Sparsity]) -> list[TrainedLayer]:
        """All layers as the cost model sees them."""
        return [TrainedLayer(row.macs, patterns.get(row.name), reduction_length(row)) for row in self.rows]
