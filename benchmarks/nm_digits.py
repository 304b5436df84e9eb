"""The digits recipe of the N:M comparison: data, network and one training, a pure function of its arm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from compress.nm_pattern import Sparsity
from compress.sparsity import METHODS, Phases, SparseTraining
from compress.sparsity.cost import TrainedLayer, equal_flops_steps, training_flops
from compress.sparsity.diagnostics import DiagnosticsLog, gradient_noise

TRAIN, WIDTH, CLASSES, HIDDEN = 1000, 64, 10, 3
NOISE_EVERY = 60
"""Steps between measurements of the true gradient noise, in the second half."""


@dataclass(frozen=True)
class Arm:
    """One training. `flops`: as many steps as a dense training of `steps` steps pays for; False: `steps` steps."""

    method: str
    pattern: str
    seed: int
    flops: bool
    steps: int
    batch: int = 64
    rate: float = 2e-3
    dense_share: float = 0.0

    @property
    def name(self) -> str:
        """The arm as a file name."""
        budget = "flops" if self.flops else "steps"
        return f"{self.pattern.replace(':', 'of')}-{self.method}-{budget}-{self.steps}-{self.seed}"

    def phases(self, steps: int) -> Phases:
        """The phases of a training of that many steps: one-shot pruning follows 60 % of dense training."""
        return Phases(steps, dense=0.6 if self.method == "one_shot" else self.dense_share)


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(train images, train labels, test images, test labels) of 8x8 digits, the same split for each arm."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:]


def network() -> nn.Sequential:
    """Three hidden layers with LayerNorm and GELU."""
    parts: list[nn.Module] = []
    for _ in range(HIDDEN):
        parts += [nn.Linear(64, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()]
    return nn.Sequential(*parts, nn.Linear(WIDTH, CLASSES))


def accounts(pattern: Sparsity) -> list[TrainedLayer]:
    """The layers as the cost model sees them."""
    return [TrainedLayer(64 * WIDTH, pattern, 64)] * HIDDEN + [TrainedLayer(WIDTH * CLASSES)]


def train(arm: Arm) -> dict[str, Any]:
    """Train one arm and test it with hard masks; the same arm gives the same result."""
    pattern, method = Sparsity.parse(arm.pattern), METHODS[arm.method]
    layers = accounts(pattern)
    steps = equal_flops_steps(method, arm.phases(arm.steps), layers) if arm.flops else arm.steps
    phases = arm.phases(steps)
    images, labels, test_images, test_labels = data()
    torch.manual_seed(arm.seed)
    model = network()
    training = SparseTraining(model, {str(3 * i): pattern for i in range(HIDDEN)}, method, phases)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arm.rate)
    log, ratios = DiagnosticsLog(training), []
    order = torch.Generator().manual_seed(arm.seed + 1000)
    for step in range(steps):
        chosen = torch.randint(0, TRAIN, (arm.batch,), generator=order)
        for group in optimizer.param_groups:
            group["lr"] = arm.rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        training.begin(step)
        if step >= steps // 2 and step % NOISE_EVERY == 0:
            ratios.append(_noise(model, training, images[chosen], labels[chosen]))
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(images[chosen]), labels[chosen]))
        training.after_backward()
        log.watch(step)
        optimizer.step()
        log.record(step, optimizer)
        training.after_step(optimizer)
    masks = training.finish()
    with torch.no_grad():
        logits = model(test_images)
    late = [values for step, _, values in log.rows if step >= steps // 2]
    flops = training_flops(method, phases, layers, arm.batch)
    return {
        "method": arm.method,
        "pattern": arm.pattern,
        "seed": arm.seed,
        "budget": "flops" if arm.flops else "steps",
        "steps": steps,
        "accuracy": float((logits.argmax(1) == test_labels).double().mean()),
        "nll": float(nn.functional.cross_entropy(logits, test_labels)),
        "kept": _mean([float(mask.double().mean()) for mask in masks.values()]),
        "g_var": _mean([values.g_var for values in late]),
        "v_var": _mean([values.v_var for values in late]),
        "update_pruned": _mean([values.update_pruned for values in late]),
        "reentry_rate": _mean([values.reentry_rate for values in late]),
        "nsr": _mean(ratios),
        "flops_algorithmic": flops.algorithmic,
        "flops_realisable": flops.realisable,
    }


def _noise(model: nn.Module, training: SparseTraining, images: Tensor, labels: Tensor) -> float:
    """Noise over signal of the kept weights' gradient, from two half-batches, mean over layers."""
    halves = []
    for part in (slice(0, len(images) // 2), slice(len(images) // 2, None)):
        model.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(images[part]), labels[part]))
        halves.append({n: x.master.grad.clone() for n, x in training.layers.items() if x.master.grad is not None})
    pairs = [gradient_noise(halves[0][n], halves[1][n], x.mask)[0] for n, x in training.layers.items()]
    noise, signal = sum(p.noise for p in pairs), sum(p.signal for p in pairs)
    return noise / max(signal, 1e-30)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
