"""Topology: a space's wiring as a module. What its layers are made of is the caller's choice: mixtures while searching,
quantised convolutions while training, plain ones in the network that is deployed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.super_resolution.models.searched.adq import ADQ
from workloads.super_resolution.models.searched.attention import MIN_INPUT_SIDE, Attention, MakeUnit
from workloads.super_resolution.models.searched.operations import ConvSpec
from workloads.super_resolution.models.searched.space import SearchSpace, steps_of
from workloads.super_resolution.models.searched.wiring import CELL_INPUT, PICTURE, FixedSite, Site, Step

MakeLayer = Callable[[Site], nn.Module]


def module_key(name: str) -> str:
    """The name of a layer as modules can have it."""
    return name.replace(".", "_")


class Topology(nn.Module):
    """RGB in 0..1, [N, 3, H, W] to [N, 3, scale * H, scale * W]. `unit` makes the convolutions of fixed parts."""

    def __init__(self, space: SearchSpace, *, layer: MakeLayer, unit: MakeUnit, adq: bool) -> None:
        super().__init__()
        self.space = space
        self._network, self._cell = steps_of(space)
        wiring = space.wiring
        self.layers = nn.ModuleDict({module_key(site.name): layer(site) for site in wiring.sites})
        self.fixed = nn.ModuleDict({module_key(part.name): _part(part, unit) for part in wiring.fixed})
        wrapped = wiring.residuals if adq else ()
        self.adq = nn.ModuleDict({module_key(name): ADQ(channels) for name, channels in wrapped})

    @property
    def min_input_side(self) -> int:
        """Least height and width of an input."""
        return MIN_INPUT_SIDE if any(part.kind == "esa" for part in self.space.wiring.fixed) else 1

    def layer(self, name: str) -> nn.Module:
        """What stands at a searched layer."""
        return self.layers[module_key(name)]

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        return self._run(self._network, {PICTURE: x}, "")

    def _run(self, steps: tuple[Step, ...], values: dict[str, Tensor], prefix: str) -> Tensor:
        for step in steps:
            values[step.target] = self._step(step, [values[name] for name in step.inputs], prefix)
        return values[steps[-1].target]

    def _step(self, step: Step, inputs: list[Tensor], prefix: str) -> Tensor:
        first = inputs[0]
        key = module_key(prefix + step.what)
        family, _, name = step.what.partition(".")
        made: Tensor
        if key in self.layers:
            made = self.layers[key](first)
        elif key in self.fixed:
            made = self.fixed[key](first)
        elif family in {"normalise", "residual"}:
            made = self._residual(family, module_key(prefix + name), inputs)
        elif step.what == "add":
            made = sum(inputs[1:], first)
        elif step.what == "concat":
            made = torch.cat(inputs, dim=1)
        elif step.what == "repeat":
            made = first.repeat(1, self.space.width // first.shape[1], 1, 1)
        elif step.what == "shuffle":
            made = F.pixel_shuffle(first, self.space.scale)
        else:
            made = self._cells(first, together=step.what == "cells_all")
        return made

    def _residual(self, family: str, key: str, inputs: list[Tensor]) -> Tensor:
        if key not in self.adq:
            return inputs[0] if family == "normalise" else inputs[0] + inputs[1]
        adq = self.adq[key]
        assert isinstance(adq, ADQ)
        return adq.normalise(inputs[0]) if family == "normalise" else adq.rejoin(*inputs)

    def _cells(self, value: Tensor, *, together: bool) -> Tensor:
        outputs = []
        for number in range(self.space.cells):
            value = self._run(self._cell, {CELL_INPUT: value}, f"cells.{number}.")
            outputs.append(value)
        return torch.cat(outputs, dim=1) if together else value


def _part(part: FixedSite, unit: MakeUnit) -> nn.Module:
    if part.kind == "esa":
        return Attention(part.inputs, part.outputs, unit)
    return unit(ConvSpec(part.inputs, part.outputs, (part.kernel, part.kernel)))
