"""Workload: a task's data, loss and metric around a model. The one class that a user writes to bring a new task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bitwright.foundation.errors import UsageError

Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sample:
    """One evaluation item: `input` as the network takes it, shape [1, C, H, W], and what it is compared with."""

    name: str
    input: Tensor
    target: Tensor


@dataclass(frozen=True)
class Quality:
    """What a metric said: the figure of the set and of each sample; `extra` holds secondary metrics' means."""

    metric: str
    unit: str
    mean: float
    per_sample: dict[str, float]
    extra: dict[str, float] = field(default_factory=dict)


_TRACE_SIDE = 64


class Workload(ABC):
    """What bitwright needs to know of a task. Tensors that enter and leave a network are float32, NCHW."""

    name: str
    metric: str
    unit: str
    min_input_side: int = 1
    takes_one_size: bool = False
    """Whether a network may take inputs of `min_input_side` only, as one with learned places for its patches does."""

    def traced_at(self) -> Tensor:
        """The input that networks are traced at, [1, C, side, side]: of a usual size, or of the one that they take."""
        side = self.min_input_side if self.takes_one_size else max(_TRACE_SIDE, self.min_input_side)
        return self.example_input(side, side)

    @abstractmethod
    def example_input(self, height: int, width: int) -> Tensor:
        """An input of shape [1, C, height, width] with natural statistics and the network's value range."""

    @abstractmethod
    def samples(self, folder: Path, limit: int | None = None) -> Sequence[Sample]:
        """The evaluation samples in a folder, decoded lazily, in a stable order; DataError if there is none."""

    @abstractmethod
    def held_out(self, folder: Path) -> Sequence[Sample]:
        """Samples of a training folder that choose between plans; calibration keeps off them where it can."""

    @abstractmethod
    def calibration(self, folder: Path, count: int, size: int, seed: int = 0) -> Tensor:
        """`count` network inputs of shape [count, C, size, size], from the folder's images less those held out."""

    def training(self, folder: Path, size: int, seed: int = 0, *,
                 stretched: float = 0.0) -> Dataset[tuple[Tensor, Tensor]]:  # fmt: skip
        """Samples to train on, less those held out: item i, for any i >= 0, is (input [C, H, W], target).

        A pure function of `seed`, i and the files; `size` is the side of a crop where samples are crops. `stretched`:
        share of the crops of pictures whose contrast is stretched, for a training against a teacher's output.
        """
        raise UsageError(f"{type(self).__name__} has no samples to train on; leave --recover out")

    @abstractmethod
    def evaluate(self, predict: Predict, samples: Sequence[Sample]) -> Quality:
        """Run `predict` on each sample and score it: the one place where the metric is applied."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The training loss, a scalar."""


@dataclass
class LoadedModel:
    """A float network in eval mode, with where it came from and the task it was recognised for."""

    module: torch.nn.Module
    architecture: str
    workload: Workload
    path: Path
    sha256: str

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.module.parameters())
