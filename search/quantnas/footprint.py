"""Memory and time of a search step, from one small step, before the search begins."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from search.quantnas.bilevel_step import Batch, pixel_loss
from search.quantnas.mixed_layer import MixedLayer
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
              passes: int = 1, sharing: int = 1) -> Footprint:  # fmt: skip
    """Measured on one sample ([C, H, W], target) and on two, and drawn out to the `share` of a batch that one process
    computes: what a step keeps or takes whatever its batch counts once.

    `passes`: how many passes keep their tensors at once; a captured pass keeps them between steps as well. `sharing`:
    processes that share the machine's memory, on a CPU. Weights, logits and statistics stay as they are.
    """
    device = next(net.parameters()).device
    kept, seconds = [], []
    for count in (1, 2):
        x, target = (part[None].expand(count, *part.shape).to(device).contiguous() for part in sample)
        batch = x, target
        # The first pass of a size also chooses kernels and takes memory from the system.
        _seconds(net, batch, settings, weights=True)
        kept.append(max(_kept(net, batch, settings, weights=weights) for weights in (False, True)))
        seconds.append(sum(_seconds(net, batch, settings, weights=weights) for weights in (False, True)))
    net.zero_grad(set_to_none=True)
    parameters = sum(p.numel() * p.element_size() for p in net.parameters())
    free = psutil.virtual_memory().available // sharing
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    whole = kept[0] + (share - 1) * max(0, kept[1] - kept[0])
    time_taken = seconds[0] + (share - 1) * max(0.0, seconds[1] - seconds[0])
    return Footprint(whole * passes + ADAM_COPIES * parameters, time_taken, int(free))


def _learn(net: Supernet, *, weights: bool) -> None:
    net.learn(weights=weights)
    for part in net.modules():
        if isinstance(part, ADQ):
            part.learning_statistics = False


def _seconds(net: Supernet, batch: Batch, settings: SearchSettings, *, weights: bool) -> float:
    """Of both passes."""
    cuda = batch[0].is_cuda
    _learn(net, weights=weights)
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    torch.autograd.backward(pixel_loss(net, *batch, settings))
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _kept(net: Supernet, batch: Batch, settings: SearchSettings, *, weights: bool) -> int:
    """Bytes that the forward pass keeps, as autograd keeps them, each storage once; of layers that are computed twice,
    their inputs and what the largest of them keeps.
    """
    _learn(net, weights=weights)
    outside: dict[int, int] = {}
    inside: dict[MixedLayer, dict[int, int]] = {}
    present: list[MixedLayer] = []
    # What was freed meanwhile would give its address to another.
    alive: list[Tensor] = []

    def note(tensor: Tensor, storages: dict[int, int]) -> None:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()

    def pack(tensor: Tensor) -> Tensor:
        note(tensor, inside.setdefault(present[-1], {}) if present else outside)
        return tensor

    def enter(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, MixedLayer)
        note(inputs[0], outside)
        present.append(layer)

    again = [layer for _, layer in net.mixtures() if layer.recompute]
    handles = [layer.register_forward_pre_hook(enter) for layer in again]
    handles += [layer.register_forward_hook(lambda *_: present.clear()) for layer in again]
    try:
        for layer in again:
            layer.recompute = False
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            pixel_loss(net, *batch, settings)
    finally:
        for layer in again:
            layer.recompute = True
        for handle in handles:
            handle.remove()
    held = {p.untyped_storage().data_ptr() for p in net.parameters()}
    own = [sum(size for place, size in one.items() if place not in outside and place not in held)
           for one in inside.values()]  # fmt: skip
    return sum(size for place, size in outside.items() if place not in held) + max(own, default=0)
