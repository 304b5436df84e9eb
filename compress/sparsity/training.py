"""SparseTraining: carries a method out on a model: masks, gradients, the freeze and what optimisers must forget.

In each step: `begin(step)`, forward, backward, `after_backward()`, clipping, `optimizer.step()`, `after_step(...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity
from compress.sparsity.action import Action
from compress.sparsity.layouts import WeightLayout, layout_of
from compress.sparsity.masks import Scored, nm_masks
from compress.sparsity.methods.method import Method
from compress.sparsity.schedules import Phases
from compress.sparsity.sparse_weight import SparseWeight
from compress.sparsity.step_adam import StepAdam

Score = Callable[[str, Tensor], Tensor]
"""(layer, master weight) -> what each weight is worth."""
_NONE = torch.zeros((), dtype=torch.int64)


class Restrict(StrEnum):
    """What a restricted method scales by s."""

    GRAD = "grad"
    """The gradient: the method as it is written."""
    UPDATE = "update"
    """The optimiser's step, whose size Adam makes independent of the gradient's scale; needs StepAdam."""


class SparseLayer:
    """A layer in sparse training: its master weight, its parametrisation and its target."""

    def __init__(self, name: str, module: nn.Module, pattern: Sparsity) -> None:
        layout = layout_of(module)
        if layout is None:
            raise UsageError(f"layer {name!r} is a {type(module).__name__}, which is never pruned")
        self.name, self.module, self.pattern = name, module, pattern
        self.layout: WeightLayout = layout
        weight = module.weight
        assert isinstance(weight, Tensor)
        self.channels = layout.length(tuple(weight.shape))
        if self.channels < pattern.m:
            raise UsageError(f"layer {name!r}: {self.channels} input channels are fewer than a group of {pattern.m}")
        self.sparse = SparseWeight(weight)
        parametrize.register_parametrization(module, "weight", self.sparse)
        self.flips = self.entries = _NONE
        """Weights whose mask changed at the last refresh, and those of them that came back into it.

        0 from the freeze on, and for the first mask, which changes nothing that was there.
        """

    @property
    def master(self) -> nn.Parameter:
        """W, the dense weight that the optimiser holds."""
        holder = self.module.parametrizations
        assert isinstance(holder, nn.ModuleDict)
        found = holder["weight"].original
        assert isinstance(found, nn.Parameter)
        return found

    @property
    def mask(self) -> Tensor:
        """m, true for what is kept."""
        return self.sparse.mask


class SparseTraining:
    """`patterns`: the target of each pruned layer by module name; `period`: steps between refreshes of moving masks.

    Masks are buffers of the model and so part of its `state_dict`; the rest is a function of the step.
    """

    def __init__(self, model: nn.Module, patterns: Mapping[str, Sparsity], method: Method, phases: Phases, *,
                 period: int = 1, restrict: Restrict = Restrict.GRAD, score: Score | None = None) -> None:  # fmt: skip
        if not 1 <= period <= 10:
            raise UsageError(f"masks are refreshed every 1 to 10 steps, not {period}")
        modules = dict(model.named_modules())
        unknown = [name for name in patterns if name not in modules]
        if unknown:
            raise UsageError(f"the model has no layer {unknown[0]!r}")
        self.method, self.phases, self.period, self.restrict = method, phases, period, restrict
        self.score = score
        self.layers = {name: SparseLayer(name, modules[name], pattern) for name, pattern in patterns.items()}

    def action(self, layer: SparseLayer, step: int) -> Action:
        """What the method does to a layer at a step."""
        return self.method.at(step, self.phases, layer.pattern, layer.channels)

    def begin(self, step: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Set the actions of a step and refresh the masks that are due. `optimizer`: needed for Restrict.UPDATE."""
        due: dict[Sparsity, list[SparseLayer]] = {}
        for layer in self.layers.values():
            action = self.action(layer, step)
            layer.sparse.set(action, whole_gradient=self.restrict is Restrict.UPDATE)
            if action.pattern is not None and self._due(layer, action, step):
                due.setdefault(action.pattern, []).append(layer)
            elif action.frozen:
                layer.flips = layer.entries = _NONE
        for pattern, layers in due.items():
            self._refresh(layers, pattern)
        if self.method.frozen_from(self.phases) == step:
            self._agree()
            self._zero_pruned()
        if self.restrict is Restrict.UPDATE:
            self._share_steps(optimizer)

    def after_backward(self) -> None:
        """Add the pull of SR-STE to the gradients; before clipping, so that its norm counts."""
        for layer in self.layers.values():
            pull, gradient = layer.sparse.action.pull, layer.master.grad
            if pull and gradient is not None:
                gradient.add_(layer.master.detach().masked_fill(layer.mask, 0.0), alpha=pull)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Under a fixed mask, keep pruned weights and their moments at exactly zero."""
        for layer in self.layers.values():
            if layer.sparse.action.frozen:
                with torch.no_grad():
                    layer.master.masked_fill_(~layer.mask, 0.0)
                forget(optimizer, layer.master, layer.mask)

    def masks(self) -> dict[str, Tensor]:
        """The present mask of each layer."""
        return {name: layer.mask for name, layer in self.layers.items()}

    @contextmanager
    def hard_masked(self) -> Iterator[None]:
        """Within it the model computes as `finish` would leave it now: under the target's mask, hard."""
        kept = {name: (layer.sparse.action, layer.mask.clone()) for name, layer in self.layers.items()}
        targets: dict[Sparsity, list[SparseLayer]] = {}
        for layer in self.layers.values():
            if self.method.prunes and not layer.sparse.action.frozen:
                targets.setdefault(layer.pattern, []).append(layer)
                layer.sparse.set(Action(layer.pattern))
        for pattern, layers in targets.items():
            for name, mask in self._masks(layers, pattern).items():
                self.layers[name].mask.copy_(mask)
        try:
            yield
        finally:
            for name, (action, mask) in kept.items():
                self.layers[name].sparse.set(action, whole_gradient=self.restrict is Restrict.UPDATE)
                self.layers[name].mask.copy_(mask)

    def finish(self) -> dict[str, Tensor]:
        """Put hard-masked weights into the model, remove the parametrisations, and return the masks.

        A method that never froze is masked by its target's mask now, whatever beta was, also in its dense phase; only
        one that does not prune has no masks.
        """
        found = {}
        for layer in self.layers.values():
            if self.method.prunes:
                if not layer.sparse.action.frozen:
                    layer.mask.copy_(self._masks([layer], layer.pattern)[layer.name])
                with torch.no_grad():
                    layer.master.masked_fill_(~layer.mask, 0.0)
                found[layer.name] = layer.mask.clone()
            parametrize.remove_parametrizations(layer.module, "weight", leave_parametrized=False)
        return found

    def _due(self, layer: SparseLayer, action: Action, step: int) -> bool:
        if action.frozen:
            return self.method.frozen_from(self.phases) == step
        if (step - self.phases.start) % self.period == 0:
            return True
        return self.action(layer, step - 1).pattern != action.pattern

    def _masks(self, layers: list[SparseLayer], pattern: Sparsity) -> dict[str, Tensor]:
        scores = {x.name: self.score(x.name, x.master) if self.score else x.master for x in layers}
        scored = {x.name: Scored(scores[x.name], x.layout) for x in layers}
        return nm_masks(scored, pattern, magnitudes=self.score is None)

    def _refresh(self, layers: list[SparseLayer], pattern: Sparsity) -> None:
        for name, mask in self._masks(layers, pattern).items():
            layer = self.layers[name]
            # All ones stand where no mask was taken yet; a product, because asking would wait for the device.
            layer.flips = torch.count_nonzero(layer.mask != mask) * ~layer.mask.all()
            layer.entries = torch.count_nonzero(mask & ~layer.mask)
            layer.mask.copy_(mask)

    def _agree(self) -> None:
        """Take the first process's masks in all of them: a mask that differs would never be put right again."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for layer in self.layers.values():
                shared = layer.mask.to(torch.uint8)
                torch.distributed.broadcast(shared, 0)
                layer.mask.copy_(shared.bool())

    def _zero_pruned(self) -> None:
        for layer in self.layers.values():
            with torch.no_grad():
                layer.master.masked_fill_(~layer.mask, 0.0)

    def _share_steps(self, optimizer: torch.optim.Optimizer | None) -> None:
        if not isinstance(optimizer, StepAdam):
            raise UsageError("restrict=update scales the optimiser's steps: give begin() a StepAdam")
        optimizer.shares.clear()
        for layer in self.layers.values():
            action = layer.sparse.action
            if action.restricted and not action.frozen:
                optimizer.shares[layer.master] = layer.sparse.soft()


def forget(optimizer: torch.optim.Optimizer, parameter: Tensor, mask: Tensor) -> None:
    """Zero what an optimiser remembers of pruned weights; momentum would bring them back."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value.masked_fill_(~mask, 0.0)
