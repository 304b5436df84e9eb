"""Memory and time of a search step, from one small step, before the search begins."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from search.quantnas.settings import SearchSettings
from search.quantnas.supernet import Supernet
from workloads.super_resolution.models.searched.adq import ADQ

ADAM_COPIES = 4
"""Value, gradient and two moments of each parameter."""


@dataclass(frozen=True)
class Footprint:
    """Bytes and seconds of one step (both passes) in one process; `free` is what the machine has left."""

    bytes: int
    seconds: float
    free: int

    def describe(self) -> str:
        """One line."""
        return (
            f"a step takes about {self.bytes / 2**30:.2f} GiB of {self.free / 2**30:.1f} GiB free, "
            f"and {self.seconds:.2f} s"
        )

    def check(self) -> None:
        """UsageError where it does not fit."""
        if self.bytes > self.free:
            raise UsageError(
                f"the search does not fit: {self.describe()}; take fewer samples (batch), smaller crops (patch), "
                "a narrower space (width), or recompute=true, which keeps less and takes longer"
            )


def footprint(net: Supernet, sample: tuple[Tensor, Tensor], settings: SearchSettings, share: int,
              passes: int = 1) -> Footprint:  # fmt: skip
    """Measured on one sample ([C, H, W], target) and scaled to the `share` of a batch that one process computes.

    `passes`: how many passes keep their tensors at once; a captured pass keeps them between steps as well.
    Kept tensors are counted as autograd keeps them, each storage once. Weights, logits and statistics stay as they are.
    """
    x, target = sample[0][None], sample[1][None]
    device = next(net.parameters()).device
    x, target = x.to(device), target.to(device)
    kept, seconds = 0, 0.0
    for weights in (False, True):
        net.learn(weights=weights)
        for part in net.modules():
            if isinstance(part, ADQ):
                part.learning_statistics = False
        storages: dict[int, int] = {}

        def pack(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        started = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = torch.nn.functional.l1_loss(net(x), target)
        torch.autograd.backward(loss)
        seconds += time.perf_counter() - started
        held = {p.untyped_storage().data_ptr() for p in net.parameters()}
        kept = max(kept, sum(size for place, size in storages.items() if place not in held))
    net.zero_grad(set_to_none=True)
    parameters = sum(p.numel() * p.element_size() for p in net.parameters())
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return Footprint(kept * share * passes + ADAM_COPIES * parameters, seconds * share, int(free))
