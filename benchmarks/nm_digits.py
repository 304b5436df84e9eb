"""The digits recipe of the N:M comparison: 8x8 digits and three hidden layers, for minutes on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import count
from typing import ClassVar

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.nm_recipe import Figure, Recipe, Schedule

TRAIN, WIDTH, CLASSES, HIDDEN = 1000, 64, 10, 3


class Shuffled(Dataset[tuple[Tensor, Tensor]]):
    """Item i is (image [1, 8, 8], its class []), for any i >= 0.

    Every run of as many items as there are images is a permutation of them, drawn by `seed`.
    """

    def __init__(self, images: Tensor, labels: Tensor, seed: int) -> None:
        self.images, self.labels, self.seed = images, labels, seed
        self._epoch, self._order = -1, torch.arange(0)

    def numbers(self, first: int, count: int) -> Tensor:
        """The images of `count` items from item `first` on, by their numbers."""
        found: list[Tensor] = []
        while count:
            epoch, place = divmod(first, len(self.labels))
            if epoch != self._epoch:
                drawn = torch.Generator().manual_seed(1000 * (self.seed + 1) + epoch)
                self._epoch, self._order = epoch, torch.randperm(len(self.labels), generator=drawn)
            found.append(self._order[place : place + count])
            first, count = first + len(found[-1]), count - len(found[-1])
        return torch.cat(found)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        chosen = self.numbers(index, 1)[0]
        return self.images[chosen], self.labels[chosen]


class Digits(Recipe):
    """A multilayer perceptron on 8x8 digits, its three hidden layers pruned."""

    name: ClassVar[str] = "digits"
    title: ClassVar[str] = "8x8 digits, 64-64-64 perceptron"
    figures: ClassVar[tuple[Figure, ...]] = (Figure("accuracy", "accuracy %"), Figure("nll", "NLL", 3))
    patterns: ClassVar[tuple[str, ...]] = ("2:4", "1:8", "1:16", "1:32")
    schedule = Schedule(steps=1200, batch=64, rate=2e-3)

    def network(self) -> nn.Module:
        """Three hidden layers with LayerNorm and GELU."""
        parts: list[nn.Module] = [nn.Flatten()]
        for _ in range(HIDDEN):
            parts += [nn.Linear(64, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()]
        return nn.Sequential(*parts, nn.Linear(WIDTH, CLASSES))

    def example(self) -> Tensor:
        """A digit, [1, 1, 8, 8]."""
        return self.data[0][:1]

    @cached_property
    def data(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(train images, train labels, test images, test labels), the same split for each arm."""
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        images, labels = images[order], labels[order]
        return images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:]

    def pairs(self, seed: int) -> Shuffled:
        """The training images."""
        return Shuffled(self.data[0], self.data[1], seed)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batches as from the items one by one, which would take a quarter of the time of a step."""
        pairs, size = self.pairs(seed), self.schedule.batch
        for step in count():
            chosen = pairs.numbers(step * size, size)
            yield pairs.images[chosen].to(self.device), pairs.labels[chosen].to(self.device)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(output, target)

    def score(self, model: nn.Module) -> dict[str, float]:
        """Accuracy in percent and cross-entropy on the test images."""
        _, _, images, labels = self.data
        with torch.no_grad():
            logits = self.predict(model)(images)
        accuracy = 100 * float((logits.argmax(1) == labels).double().mean())
        return {"accuracy": accuracy, "nll": float(nn.functional.cross_entropy(logits, labels))}
