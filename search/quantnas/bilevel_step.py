"""BilevelStep: the two halves of a search step, logits on one batch and weights on another, with their optimisers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.training.processes import Processes
from compress.training.replay import adam, replays, set_share, stepped
from search.quantnas.cost_table import CostTable
from search.quantnas.entropy import Sparsity, sparsity_loss
from search.quantnas.projection import Projection, scaled
from search.quantnas.quant_settings import NoiseSource
from search.quantnas.quantisers import split_steps
from search.quantnas.settings import SearchSettings
from search.quantnas.supernet import Supernet

Batch = tuple[Tensor, Tensor]


class BilevelStep:
    """Moves the logits on L1 + penalty * cost / cost of the start + mu * sparsity, and the weights on L1 alone.

    `replayed`: on one GPU each half is captured once and replayed, unless the settings say otherwise or the step asks
    the host for a value: where a table of noise is read, which choices are masked, a temperature that changes, and the
    random state of layers that are computed twice.
    """

    def __init__(self, net: Supernet, table: CostTable, settings: SearchSettings, processes: Processes) -> None:
        self.net, self.settings, self.processes = net, settings, processes
        device = processes.device
        self.table, self.start_cost = table.to(device), table.uniform()
        self.weights = {n: p for n, p in net.named_parameters() if not n.startswith("logits.")}
        self.logits = {n: p for n, p in net.named_parameters() if n.startswith("logits.")}
        others, steps = split_steps(self.weights)
        self.weight_optimizer = adam(
            others, settings.weight_rate, processes, weight_decay=settings.weight_decay, scales=steps,
            scale_rate=settings.scale_rate,
        )  # fmt: skip
        self.alpha_optimizer = adam(
            list(self.logits.values()), settings.alpha_rate, processes, fused=False, betas=settings.alpha_betas
        )
        self.replayed = will_replay(settings, processes)
        self._penalty, self._mu = (torch.zeros((), device=device) for _ in range(2))
        self._alpha = stepped("architecture step", self._move_logits, self.alpha_optimizer, replayed=self.replayed)
        self._weight = stepped("weight step", self._move_weights, self.weight_optimizer, replayed=self.replayed)

    def alpha(self, batch: Batch, penalty: float, mu: float) -> Tensor:
        """Move the logits; L1 before, []."""
        self.net.learn(weights=False)
        self._penalty.fill_(penalty)
        self._mu.fill_(mu)
        return self._alpha(*self._placed(batch))

    def weight(self, batch: Batch, number: int, total: int) -> Tensor:
        """Move the weights in step `number` of `total`; L1 before, []."""
        self.net.learn(weights=True)
        set_share(self.weight_optimizer, 0.5 * (1 + math.cos(math.pi * number / total)))
        return self._weight(*self._placed(batch))

    def loss(self, batch: Batch) -> Tensor:
        """L1 of a batch, []."""
        return pixel_loss(self.net, *self._placed(batch), self.settings)

    def mixture(self) -> tuple[float, float]:
        """Expected cost of the searched layers, and the sparsity term."""
        with torch.no_grad():
            return float(self.table.expected(self.net.alphas())), float(self._sparsity())

    def _move_logits(self, x: Tensor, target: Tensor) -> Tensor:
        pixels = pixel_loss(self.net, x, target, self.settings)
        hardware = self.table.expected(self.net.alphas()) / self.start_cost
        torch.autograd.backward(pixels + self._penalty * hardware + self._mu * self._sparsity())
        self.processes.average_gradients(self.logits.values())
        self.alpha_optimizer.step()
        return pixels.detach()

    def _move_weights(self, x: Tensor, target: Tensor) -> Tensor:
        loss = pixel_loss(self.net, x, target, self.settings)
        torch.autograd.backward(loss)
        self.processes.average_gradients(self.weights.values())
        nn.utils.clip_grad_norm_(list(self.weights.values()), self.settings.clip)
        self.weight_optimizer.step()
        return loss.detach()

    def _sparsity(self) -> Tensor:
        settings, net = self.settings, self.net
        if settings.sparsity is Sparsity.ENTROPY:
            mixed = (scaled(one, net.projection, net.temperature) for one in net.logits.values())
            return sparsity_loss(mixed, settings.sparsity, settings.entropy_reduction)
        return sparsity_loss(net.logits.values(), settings.sparsity, settings.entropy_reduction)

    def _placed(self, batch: Batch) -> Batch:
        x, target = (part.to(self.processes.device, non_blocking=True) for part in batch)
        return x, target


def pixel_loss(net: Supernet, x: Tensor, target: Tensor, settings: SearchSettings) -> Tensor:
    """L1 of a batch in the precision of the run, []."""
    device = x.device.type
    # A cache of cast weights would outlive the capture that filled it.
    with torch.autocast(device, torch.bfloat16, enabled=settings.amp, cache_enabled=device == "cpu"):
        output = net(x)
    return F.l1_loss(output.float(), target)


def will_replay(settings: SearchSettings, processes: Processes) -> bool:
    """Whether both halves of a step are captured on a GPU."""
    on_host = settings.recompute or settings.projection is Projection.MASKED
    on_host |= settings.quant.source is NoiseSource.TABLE or len(set(settings.temperatures)) > 1
    return replays(processes, settings.replay and not on_host)
