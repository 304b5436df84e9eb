"""Samples of a training: pairs that are a function of their index, and each process's share of every batch."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compress.training.processes import Processes

Pairs = Dataset[tuple[Tensor, Tensor]]
"""Item i is (input [C, H, W], target), a pure function of i."""


def batches(data: Pairs, batch: int, processes: Processes, first: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of each global batch from number `first` on; sample i of batch s is item s * batch + i."""
    share = processes.share(batch)

    class Indices:
        def __iter__(self) -> Iterator[list[int]]:
            at = first
            while True:
                yield [at * batch + i for i in share]
                at += 1

    return iter(DataLoader(data, batch_sampler=Indices(), num_workers=workers))
