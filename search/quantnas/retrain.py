"""Training of the network found: from random weights, with learned steps, keeping the best epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright.foundation.progress import note
from compress.training.processes import Processes
from compress.training.replay import EagerStep, adam, replays, set_share, stepped
from compress.training.samples import batches
from compress.training.state import Position, load_state, moments, restore_moments, save_state, seed_step
from search.quantnas.found_network import QuantisedNetwork
from search.quantnas.quantisers import split_steps
from search.quantnas.settings import PATCH_SIDE, PATCH_STRIDE, RetrainSettings
from workloads.super_resolution.models.searched import Genotype
from workloads.super_resolution.training_data import PatchDataset

STATE = "retrain.safetensors"
DECIDES = "network, settings or pictures"
BEST, BEST_EPOCH = "best", "best_epoch"
Score = Callable[[nn.Module], float]
OnLog = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Retrained:
    """The network of the epoch with the best held-out score (higher is better), in evaluation mode on the CPU."""

    network: QuantisedNetwork
    score: float
    best_epoch: int
    epochs: int
    history: tuple[dict[str, float], ...]
    seconds: float


def retrain(genotype: Genotype, data: PatchDataset, settings: RetrainSettings, *, score: Score, processes: Processes,
            path: Path | None = None, on_log: OnLog | None = None) -> Retrained:  # fmt: skip
    """Adam at `rate`, steps of quantisers at `scale_rate`, half a cosine to 0, L1. A state found at `path` is continued
    to the same result.

    `on_log` hears of every entry of the history, also of those before a continuation.
    """
    seed_step(settings.seed, -1, 0)
    network = QuantisedNetwork(genotype, settings.act_quant)
    first = torch.stack([data[i][0] for i in range(settings.batch)])
    network.measure_steps(first)
    network.to(processes.device).train()
    named = dict(network.named_parameters())
    others, steps = split_steps(named)
    optimizer = adam(
        others, settings.rate, processes, weight_decay=settings.weight_decay, scales=steps,
        scale_rate=settings.scale_rate,
    )  # fmt: skip
    per_epoch = settings.steps_per_epoch or max(1, data.patches_at(PATCH_SIDE, PATCH_STRIDE) // settings.batch)
    total = settings.epochs * per_epoch
    position = Position(f"{settings.fingerprint()}/{genotype.to_json()}/{data.pictures}")
    best: dict[str, Tensor] = {}
    if path is not None and path.is_file():
        position, groups = load_state(path, position.fingerprint, DECIDES)
        network.load_state_dict(groups["net"])
        restore_moments(optimizer, named, "", groups)
        best = groups.get("best", {})
        note(f"retraining: continuing at step {position.step}")
    heard = on_log if processes.first else None
    if heard is not None:
        for entry in position.history:
            heard(entry)
    step = _step(network, optimizer, settings, processes)
    rounds_from = settings.float_epochs * per_epoch
    network.set_rounding(position.step >= rounds_from)
    source = batches(data, settings.batch, processes, position.step, settings.workers)
    began, saved, resumed = time.monotonic(), time.monotonic(), position.seconds
    losses: list[Tensor] = []
    while position.step < total:
        seed_step(settings.seed, position.step, processes.rank)
        if 0 < position.step == rounds_from:
            network.set_rounding(True)
            network.measure_steps(first.to(processes.device))
            step = _step(network, optimizer, settings, processes)
        set_share(optimizer, 0.5 * (1 + math.cos(math.pi * position.step / total)))
        x, target = (part.to(processes.device, non_blocking=True) for part in next(source))
        losses.append(step(x, target))
        position.step += 1
        position.seconds = resumed + time.monotonic() - began
        ended = position.step % per_epoch == 0
        if ended and position.step > rounds_from:
            best = _checked(network, position, position.step // per_epoch, score, processes, best)
        if ended or position.step % settings.log_every == 0:
            position.history.append({"step": float(position.step), "train": float(torch.stack(losses).mean())})
            losses.clear()
            if processes.first:
                if heard is not None:
                    heard(position.history[-1])
                left = position.seconds / position.step * (total - position.step) / 60
                note(
                    f"retraining: step {position.step}/{total}  L1 {position.history[-1]['train']:.4f}  best "
                    f"{position.values.get(BEST, math.nan):.3f}  {left:.1f} min left"
                )
        late = processes.from_first(float(time.monotonic() - saved >= settings.save_seconds))
        if path is not None and processes.first and (late or ended):
            groups = {"net": network.state_dict(), "best": best, **moments(optimizer, named, "")}
            save_state(path, position, groups)
            saved = time.monotonic()
    network.to("cpu").load_state_dict(best)
    values = position.values
    return Retrained(
        network.eval(), values[BEST], int(values[BEST_EPOCH]), settings.epochs, tuple(position.history),
        position.seconds,
    )  # fmt: skip


def _step(network: QuantisedNetwork, optimizer: torch.optim.Optimizer, settings: RetrainSettings,
          processes: Processes) -> EagerStep:  # fmt: skip
    """A step in the present state of the network; captured on a GPU."""
    parameters = list(network.parameters())

    def compute(x: Tensor, target: Tensor) -> Tensor:
        device = x.device.type
        # A cache of cast weights would outlive the capture that filled it.
        with torch.autocast(device, torch.bfloat16, enabled=settings.amp, cache_enabled=device == "cpu"):
            output = network(x)
        loss = F.l1_loss(output.float(), target)
        torch.autograd.backward(loss)
        processes.average_gradients(parameters)
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
        return loss.detach()

    return stepped("retraining step", compute, optimizer, replayed=replays(processes, settings.replay))


def _checked(network: QuantisedNetwork, position: Position, epoch: int, score: Score, processes: Processes,
             best: dict[str, Tensor]) -> dict[str, Tensor]:  # fmt: skip
    """Score the network; the values to keep."""
    network.eval()
    value = 0.0
    if processes.first:
        with torch.no_grad():
            value = score(network)
    value = processes.from_first(value)
    network.train()
    if best and value <= position.values[BEST]:
        return best
    position.values |= {BEST: value, BEST_EPOCH: float(epoch)}
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
