"""Wiring: the steps of a space, checked: every layer with its channels and its resolution."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitwright.foundation.errors import UsageError
from workloads.super_resolution.models.searched.operations import ConvSpec, Operation, operation

PICTURE, CELL_INPUT = "x", "z"
COLOURS = 3
_FROM_PICTURE = "<picture>"
_STEP = re.compile(r"(\w+)\s*=\s*([a-z][\w.]*)\(([\w\s,]*)\)")
_ARGUMENTS = {"repeat": 1, "shuffle": 1, "cells": 1, "cells_all": 1, "normalise": 1, "residual": 2}


@dataclass(frozen=True)
class Step:
    """`target = what(inputs)`."""

    target: str
    what: str
    inputs: tuple[str, ...]

    def __str__(self) -> str:
        """As it is written in a space."""
        return f"{self.target} = {self.what}({', '.join(self.inputs)})"


def parse_step(text: str) -> Step:
    """A step from its text; ValueError where it does not read `name = what(inputs)`."""
    match = _STEP.fullmatch(text.strip())
    inputs = () if match is None else tuple(part.strip() for part in match[3].split(","))
    if match is None or not all(inputs):
        raise ValueError(f"step {text!r} does not read `name = what(inputs)`")
    return Step(match[1], match[2], inputs)


@dataclass(frozen=True)
class LayerEnds:
    """What a space says of a searched layer."""

    outputs: int
    tokens: tuple[str, ...]
    bits: tuple[int, ...]


@dataclass(frozen=True)
class PartEnds:
    """What a space says of a fixed part."""

    kind: str
    outputs: int
    kernel: int
    name: str


@dataclass(frozen=True)
class Site:
    """A searched layer in its place. `factor`: its resolution over that of the input; `shared`: its name without the
    cell's number; `bits`: the bit widths that it may have.
    """

    name: str
    shared: str
    inputs: int
    outputs: int
    factor: int
    operations: tuple[Operation, ...]
    bits: tuple[int, ...]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The candidates' tokens."""
        return tuple(candidate.token for candidate in self.operations)


@dataclass(frozen=True)
class FixedSite:
    """A fixed part in its place. `outputs`: of attention, the channels inside; `factor`: the resolution of its input
    over that of the network's.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    kernel: int
    factor: int


@dataclass(frozen=True)
class _Value:
    """What a variable holds: channels, resolution over the input's, and the searched layers that it comes from."""

    channels: int
    factor: int
    origins: frozenset[str]


@dataclass(frozen=True)
class Wiring:
    """All layers and fixed parts in execution order; `edges`: (layer, layer that reads what it makes).

    `ends`: layers that read the picture alone or make a term of the output, those inside cells left out.
    """

    sites: tuple[Site, ...]
    fixed: tuple[FixedSite, ...]
    edges: tuple[tuple[str, str], ...]
    residuals: tuple[tuple[str, int], ...]
    ends: tuple[str, ...]

    @staticmethod
    def of(size: tuple[int, int, int], layers: Mapping[str, LayerEnds], parts: Mapping[str, PartEnds],
           network: Sequence[Step], cell: Sequence[Step]) -> Wiring:  # fmt: skip
        """Follow the steps; `size`: width, cells, scale. ValueError names the step that does not fit."""
        walk = _Walk(size, layers, parts, tuple(cell))
        result = walk.run(network, {PICTURE: _Value(COLOURS, 1, frozenset({_FROM_PICTURE}))}, "")
        if (result.channels, result.factor) != (COLOURS, size[2]):
            raise ValueError(
                f"the network ends with {result.channels} channels at {result.factor} times the input's size; "
                f"it must end with {COLOURS} at {size[2]}"
            )
        idle = [name for name in (*layers, *parts) if name not in walk.used]
        if idle:
            raise ValueError(f"{idle[0]} is declared and no step uses it")
        halves = {name for name, _ in walk.residuals} ^ walk.normalised
        if halves:
            raise ValueError(f"normalise.{sorted(halves)[0]} and residual.{sorted(halves)[0]} belong together")
        edges = dict.fromkeys(edge for edge in walk.edges if edge[0] != _FROM_PICTURE)
        outer = {reader for origin, reader in walk.edges if origin == _FROM_PICTURE} - {reader for _, reader in edges}
        ends = tuple(s.name for s in walk.sites if s.name == s.shared and s.name in outer | result.origins)
        return Wiring(tuple(walk.sites), tuple(walk.fixed), tuple(edges), tuple(walk.residuals), ends)


class _Walk:
    def __init__(self, size: tuple[int, int, int], layers: Mapping[str, LayerEnds], parts: Mapping[str, PartEnds],
                 cell: tuple[Step, ...]) -> None:  # fmt: skip
        self.width, self.cells, self.scale = size
        self.layers, self.parts, self.cell = layers, parts, cell
        self.sites: list[Site] = []
        self.fixed: list[FixedSite] = []
        self.edges: list[tuple[str, str]] = []
        self.residuals: list[tuple[str, int]] = []
        self.normalised: set[str] = set()
        self.used: set[str] = set()
        self.ran_cells = False

    def run(self, steps: Sequence[Step], values: dict[str, _Value], prefix: str) -> _Value:
        here: set[str] = set()
        for step in steps:
            missing = [name for name in step.inputs if name not in values]
            if missing:
                raise ValueError(f"step {str(step)!r}: nothing is named {missing[0]!r} there")
            if step.target in values:
                raise ValueError(f"step {str(step)!r}: {step.target!r} has a value already")
            if step.what in here:
                raise ValueError(f"step {str(step)!r}: {step.what} is used twice")
            try:
                values[step.target] = self._step(step, [values[name] for name in step.inputs], prefix)
            except (ValueError, UsageError) as error:
                raise ValueError(f"step {str(step)!r}: {error}") from error
            if step.what in self.layers or step.what in self.parts:
                here.add(step.what)
        read = {name for step in steps for name in step.inputs}
        if unread := [step for step in steps[:-1] if step.target not in read]:
            raise ValueError(f"step {str(unread[0])!r}: no step reads {unread[0].target!r}")
        return values[steps[-1].target]

    def _step(self, step: Step, inputs: list[_Value], prefix: str) -> _Value:
        first, family = inputs[0], step.what.partition(".")[0]
        expected = 1 if step.what in self.layers or step.what in self.parts else _ARGUMENTS.get(family)
        if expected is not None and len(inputs) != expected:
            raise ValueError(f"{step.what} takes {expected} input{'s' * (expected > 1)}, not {len(inputs)}")
        origins = frozenset().union(*(value.origins for value in inputs))
        if step.what in self.layers:
            return self._layer(step.what, first, prefix)
        if step.what in self.parts:
            return self._part(step.what, first, prefix)
        if family == "residual" or step.what == "add":
            return self._sum(step, inputs, origins, prefix)
        if family == "normalise":
            name = prefix + step.what.partition(".")[2]
            if name in self.normalised:
                raise ValueError(f"{step.what} is used twice")
            self.normalised.add(name)
            return first
        if step.what == "concat":
            if len({value.factor for value in inputs}) > 1:
                raise ValueError("what is concatenated must have one resolution")
            return _Value(sum(value.channels for value in inputs), first.factor, origins)
        if step.what == "repeat":
            if self.width % first.channels:
                raise ValueError(f"{first.channels} channels cannot be repeated up to a width of {self.width}")
            return _Value(self.width, first.factor, origins)
        if step.what == "shuffle":
            if first.channels % self.scale**2:
                raise ValueError(f"{first.channels} channels cannot be shuffled by {self.scale}x{self.scale}")
            return _Value(first.channels // self.scale**2, first.factor * self.scale, origins)
        if step.what in {"cells", "cells_all"} and not prefix:
            return self._cells(first, together=step.what == "cells_all")
        raise ValueError(f"{step.what!r} is neither a layer, nor a fixed part, nor a known step")

    def _layer(self, name: str, value: _Value, prefix: str) -> _Value:
        ends = self.layers[name]
        chosen = tuple(operation(token, value.channels, ends.outputs, self.width) for token in ends.tokens)
        shared = "cells." + name if prefix else name
        if name in self.used and not prefix:
            raise ValueError(f"{name} is used twice")
        self.used.add(name)
        self.sites.append(Site(prefix + name, shared, value.channels, ends.outputs, value.factor, chosen, ends.bits))
        self.edges += [(origin, prefix + name) for origin in sorted(value.origins)]
        return _Value(ends.outputs, value.factor, frozenset({prefix + name}))

    def _part(self, name: str, value: _Value, prefix: str) -> _Value:
        part = self.parts[name]
        self.used.add(name)
        outputs = value.channels if part.kind == "esa" else part.outputs
        if part.kind == "conv":
            if part.kernel % 2 == 0:
                raise ValueError(f"{name} has a kernel of {part.kernel}; it must be odd to keep the size")
            ConvSpec(value.channels, outputs, (part.kernel, part.kernel))
        inner = part.outputs if part.kind == "esa" else outputs
        self.fixed.append(FixedSite(prefix + name, part.kind, value.channels, inner, part.kernel, value.factor))
        return _Value(outputs, value.factor, frozenset())

    def _sum(self, step: Step, inputs: list[_Value], origins: frozenset[str], prefix: str) -> _Value:
        shapes = {(value.channels, value.factor) for value in inputs}
        if len(shapes) > 1 or len(inputs) < 2:
            held = " and ".join(f"{value.channels} channels at x{value.factor}" for value in inputs)
            raise ValueError(f"what is added must be alike, not {held}")
        if step.what != "add":
            name = prefix + step.what.partition(".")[2]
            if name in dict(self.residuals):
                raise ValueError(f"{step.what} is used twice")
            self.residuals.append((name, inputs[0].channels))
        return _Value(inputs[0].channels, inputs[0].factor, origins)

    def _cells(self, value: _Value, *, together: bool) -> _Value:
        if self.ran_cells:
            raise ValueError("the cells are used twice")
        self.ran_cells = True
        outputs = []
        for number in range(self.cells):
            made = self.run(self.cell, {CELL_INPUT: value}, f"cells.{number}.")
            if (made.channels, made.factor) != (value.channels, value.factor):
                raise ValueError(f"a cell turns {value.channels} channels into {made.channels}; it must keep them")
            outputs.append(made)
            value = made
        if not outputs:
            raise ValueError("the space has no cells")
        if not together:
            return value
        origins = frozenset().union(*(made.origins for made in outputs))
        return _Value(sum(made.channels for made in outputs), value.factor, origins)
