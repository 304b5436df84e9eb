"""Small networks in sparse training, for the tests of methods."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.nm_pattern import Sparsity
from compress.sparsity.methods import METHODS
from compress.sparsity.schedules import Phases
from compress.sparsity.training import SparseTraining

PATTERN = Sparsity(n=1, m=4)
PHASES = Phases(40, dense=0.1, fine_tune=0.25)


def setup(name: str, **more: object) -> tuple[nn.Linear, SparseTraining, Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(8, 5)
    training = SparseTraining(layer, {"": PATTERN}, METHODS[name], PHASES, **more)
    return layer, training, torch.randn(6, 8)


def gradients(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient that W receives, G of the forward weight), of a loss that is not linear in the weight."""
    layer.zero_grad()
    master = layer.parametrizations["weight"].original
    effective = layer.weight
    effective.retain_grad()
    loss = nn.functional.linear(x, effective, layer.bias).square().sum()
    torch.autograd.backward(loss)
    assert effective.grad is not None
    return master.grad, effective.grad


def run(name: str, steps: range, model: nn.Module, training: SparseTraining, optimizer: torch.optim.Optimizer) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 16, generator=generator)
        training.begin(step, optimizer)
        optimizer.zero_grad()
        torch.autograd.backward((model(x) - x[:, :8].square()).square().mean())
        training.after_backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        training.after_step(optimizer)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))


def made(name: str, period: int = 1) -> tuple[nn.Sequential, SparseTraining, torch.optim.Optimizer]:
    model = network()
    training = SparseTraining(model, {"0": PATTERN, "2": Sparsity(n=1, m=8)}, METHODS[name], PHASES, period=period)
    return model, training, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
