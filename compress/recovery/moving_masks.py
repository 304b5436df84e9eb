"""Moving masks in a recovery training: what is done around each step, what is exported, and what a stop must keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor, nn

from compress.recovery.checkpoint import Values
from compress.recovery.mask_settings import MaskSettings
from compress.sparsity.action import Action
from compress.sparsity.diagnostics import DiagnosticsLog, LayerDiagnostics
from compress.sparsity.step_adam import StepAdam
from compress.sparsity.training import SparseTraining

MASK_GROUPS = ("mask", "first_mask")
"""Groups of a checkpoint that hold masks."""
MOST_ROWS = 100
"""Places along the training where diagnostics are taken, at most."""


class MovingMasks:
    """`training` inside of the recovery loop. `first`: the first step whose place in the training is known."""

    def __init__(self, training: SparseTraining, settings: MaskSettings, first: int) -> None:
        self.training, self.settings, self.first = training, settings, first
        self.log = DiagnosticsLog(training)
        self.step = 0

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> StepAdam:
        """The optimiser of all float weights: no weight decay, because the aim is another network's output."""
        settings = self.settings
        return StepAdam(parameters, lr=settings.rate, weight_decay=0.0, freeze_v_at=settings.freeze_v_at)

    def begin(self, step: int, total: int, optimizer: torch.optim.Optimizer) -> None:
        """Ahead of the forward pass of step `step` of `total`."""
        self.step = step
        self.training.phases = self.settings.phases(total, self.first)
        period = self.settings.period
        every = max(10, -(-total // MOST_ROWS))
        # Masks are fresh where figures are taken.
        self.log.sample(period * -(-every // period))
        self.training.begin(step, optimizer)

    def after_backward(self) -> None:
        """Behind the averaging of gradients, ahead of clipping."""
        self.training.after_backward()
        self.log.watch(self.step)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Behind the optimiser's step."""
        self.training.after_step(optimizer)
        self.log.record(self.step, optimizer)

    def harden(self, values: Values) -> None:
        """Apply the present masks to the weights among `values`, in place."""
        for name, layer in self.training.layers.items():
            values[f"{name}.parametrizations.weight.original"].masked_fill_(~layer.mask, 0.0)

    def finish(self) -> None:
        """Keep the target's pattern in the present values, whatever the last mask was; nothing moves any more."""
        for layer in self.training.layers.values():
            layer.sparse.set(Action(layer.pattern))
        self.training.finish()

    def tensors(self) -> dict[str, Values]:
        """Groups of tensors that a stopped training needs."""
        return dict(zip(MASK_GROUPS, (self.training.masks(), self.log.first), strict=True))

    def described(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The rest of it, as JSON."""
        names = ("taken", "frozen", "v_norm")
        layers = self.training.layers
        return {
            "groups": [{name: group[name] for name in names} for group in optimizer.param_groups],
            "v_steps": [state["v_steps"] for state in optimizer.state.values()],
            "counts": {name: [int(layer.flips), int(layer.entries)] for name, layer in layers.items()},
            "rows": [(step, name, astuple(values)) for step, name, values in self.log.rows],
        }

    def restore(self, optimizer: torch.optim.Optimizer, groups: dict[str, Values], described: dict[str, Any]) -> None:
        """Put back what `tensors` and `described` took; the optimiser's moments must be there already."""
        for group, values in zip(optimizer.param_groups, described["groups"], strict=True):
            group.update(values)
        for state, v_steps in zip(optimizer.state.values(), described["v_steps"], strict=True):
            state["step"], state["v_steps"] = int(state["step"]), v_steps
        for name, layer in self.training.layers.items():
            layer.mask.copy_(groups["mask"][name])
            flips, entries = described["counts"][name]
            layer.flips, layer.entries = torch.tensor(flips), torch.tensor(entries)
        self.log.first = {name: _on(value, self.training) for name, value in groups.get("first_mask", {}).items()}
        self.log.rows = [(step, name, LayerDiagnostics(*values)) for step, name, values in described["rows"]]


def _on(value: Tensor, training: SparseTraining) -> Tensor:
    device = next(iter(training.layers.values())).mask.device
    return value.to(device)
