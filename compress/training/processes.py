"""One or several training processes: the same code under `torchrun` and without it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from bitwright.foundation.errors import UsageError


@dataclass(frozen=True)
class Processes:
    """This process among `size`, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process evaluates, logs and writes."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Positions in a global batch that this process computes; UsageError if it cannot be divided equally."""
        if batch % self.size:
            raise UsageError(f"a batch of {batch} cannot be divided equally among {self.size} processes")
        each = batch // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over all processes, in one exchange per dtype.

        A parameter without gradient in one process has none in any: all run the same. Not torch's
        DistributedDataParallel: its reducer outlives the process group, and with gloo such a process hung at its end.
        """
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_dtype.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            distributed.all_reduce(flat)
            flat /= self.size
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            shaped = [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
            torch._foreach_copy_(gradients, shaped)

    def mean(self, value: Tensor) -> float:
        """Mean of a scalar over all processes."""
        if self.size > 1:
            value = value.detach().clone()
            distributed.all_reduce(value)
            value /= self.size
        return float(value)

    def from_first(self, value: float) -> float:
        """The first process's value, in every process."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, src=0)
        return float(shared)


PATIENCE = timedelta(days=7)
"""How long processes wait for the first one to come to what they do together."""
NOTHING = ""
"""The order to processes that are not needed."""
RECOVERY, MASKS = "recovery", "masks"
"""What processes are wanted for: recovery training, and the training of masks before it."""
_joined = 0
"""How often this process has joined the others; a group must not find what an earlier one left behind."""


def started() -> tuple[int, int]:
    """This process's rank among those that `torchrun` started, and their number; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@cache
def _meeting_place() -> Store:
    store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    assert isinstance(store, Store)
    return store


def give_order(order: str, wanted_for: str = RECOVERY) -> None:
    """Tell the processes beside the first what to do; the first order counts. Nothing to do where there are none."""
    if started()[1] > 1 and not _meeting_place().check([wanted_for]):
        _meeting_place().set(wanted_for, order)


def wait_for_order(wanted_for: str = RECOVERY) -> str:
    """The order of the first process, as soon as it gives one."""
    _meeting_place().wait([wanted_for], PATIENCE)
    found: bytes = _meeting_place().get(wanted_for)
    return found.decode()


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` started (NCCL on GPUs, gloo on CPUs), or be the only one.

    After an error the group is left as it is: the process is about to end, and `torchrun` ends the others.
    """
    global _joined
    cuda = torch.cuda.is_available()
    rank, size = started()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield Processes(0, 1, device)
        return
    _joined += 1
    store = PrefixStore(f"training{_joined}", _meeting_place())
    distributed.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
    yield Processes(distributed.get_rank(), size, device)
    # Only after success, and together: a group that one process closes while another waits in it may never close.
    distributed.barrier()
    distributed.destroy_process_group()
