"""SearchSpace: what a search may choose, as data: candidates for each layer, fixed parts, and how all is wired."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bitwright.foundation.errors import UsageError
from bitwright.foundation.suggest import nearest
from bitwright.foundation.yaml_file import read_mapping
from workloads.super_resolution.models.searched.wiring import LayerEnds, PartEnds, Step, Wiring, parse_step

SPACES = Path(__file__).with_name("spaces")
COLOURS = 3
BITS = (2, 3, 4, 5, 6, 7, 8, 32)
"""Bit widths that a layer may have; 32: not quantised."""

Channels = int | str
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SearchedLayer(_Part):
    """A layer to choose. `candidates`: tokens, or the name of a list of tokens in the space; `bits`: bit widths of its
    own in place of the space's.
    """

    out: Channels
    candidates: str | tuple[str, ...]
    bits: tuple[int, ...] | None = Field(default=None, min_length=1)


class FixedKind(StrEnum):
    """Parts that are not searched."""

    CONV = "conv"
    ESA = "esa"
    """Enhanced spatial attention with `out` channels inside."""


class FixedPart(_Part):
    """A part that every network of the space has."""

    kind: FixedKind
    out: Channels
    kernel: int = Field(default=1, ge=1)


class SearchSpace(_Part):
    """A space. `network` starts from `x`, the picture, each cell from `z`; both end with their last step.

    Steps read `name = what(inputs)`, where what is a layer, a fixed part, or one of add, concat, repeat (channels up to
    the width), shuffle, cells (the last cell's output), cells_all (all cells' outputs, concatenated), and the pair
    normalise.NAME(x), residual.NAME(x, branch): a residual that is normalised and rescaled where ADQ is on.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    scale: int = Field(default=4, ge=1, le=8)
    width: int = Field(ge=1)
    cells: int = Field(default=0, ge=0)
    bits: tuple[int, ...] = Field(default=(4, 8), min_length=1)
    fixed_bits: int = 8
    share_cell_alphas: bool = False
    candidates: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    layers: dict[Name, SearchedLayer] = Field(min_length=1)
    fixed: dict[Name, FixedPart] = Field(default_factory=dict)
    network: tuple[str, ...] = Field(min_length=1)
    cell: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_bits("", self.bits)
        _check_bits("", (self.fixed_bits,))
        for name, layer in self.layers.items():
            _check_bits(f"layer {name}: ", layer.bits or ())
        if (self.cells > 0) != bool(self.cell):
            raise ValueError("a space has either cells and the steps of a cell, or neither")
        self.wiring  # noqa: B018 - builds and checks all shapes
        return self

    @cached_property
    def wiring(self) -> Wiring:
        """Every layer with its channels and resolution; ValueError names the step or layer that does not fit."""
        parts = {n: PartEnds(p.kind.value, self.channels(p.out), p.kernel, n) for n, p in self.fixed.items()}
        layers = {
            n: LayerEnds(self.channels(p.out), self._tokens(n, p), p.bits or self.bits) for n, p in self.layers.items()
        }
        steps = [tuple(parse_step(text) for text in texts) for texts in (self.network, self.cell)]
        return Wiring.of(self._size, layers, parts, *steps)

    def channels(self, text: Channels) -> int:
        """A number of channels: an integer, or a product such as `width/2` or `colours*scale*scale`."""
        if isinstance(text, int):
            return text
        known = {"width": self.width, "colours": COLOURS, "scale": self.scale}
        parts = re.split(r"([*/])", text.replace(" ", ""))
        total, sign = 1, "*"
        for part in parts:
            if part in {"*", "/"}:
                sign = part
                continue
            value = known.get(part, int(part) if part.isdigit() else 0)
            if value < 1 or (sign == "/" and total % value):
                raise ValueError(f"{text!r} is no number of channels (width {self.width}, scale {self.scale})")
            total = total * value if sign == "*" else total // value
        return total

    def resized(self, *, width: int | None = None, cells: int | None = None, bits: tuple[int, ...] | None = None,
                scale: int | None = None, fixed_bits: int | None = None) -> SearchSpace:  # fmt: skip
        """The same space with other sizes, checked again; UsageError where something no longer fits."""
        changes = {"width": width, "cells": cells, "bits": bits, "scale": scale, "fixed_bits": fixed_bits}
        data = self.model_dump(by_alias=True) | {k: v for k, v in changes.items() if v is not None}
        return _checked(data, f"the space {self.name}")

    def with_ends(self, least: int) -> SearchSpace:
        """The same space whose ends (`Wiring.ends`) have at least `least` bits: those widths of the space that are so
        wide, else `least` itself. Layers with widths of their own keep them.
        """
        wide = tuple(b for b in self.bits if b >= least) or (least,)
        data = self.model_dump(by_alias=True)
        for name in self.wiring.ends:
            data["layers"][name]["bits"] = data["layers"][name]["bits"] or wide
        return _checked(data, f"the space {self.name}")

    @property
    def all_bits(self) -> tuple[int, ...]:
        """Every bit width that some layer may have, in the order of the space, then of its layers."""
        return tuple(dict.fromkeys((*self.bits, *(b for site in self.wiring.sites for b in site.bits))))

    @property
    def _size(self) -> tuple[int, int, int]:
        return self.width, self.cells, self.scale

    def _tokens(self, name: str, layer: SearchedLayer) -> tuple[str, ...]:
        if not isinstance(layer.candidates, str):
            found = layer.candidates
        elif layer.candidates in self.candidates:
            found = self.candidates[layer.candidates]
        else:
            raise ValueError(f"layer {name}: no list of candidates is named {layer.candidates!r}")
        if not found or len(set(found)) < len(found):
            raise ValueError(f"layer {name}: candidates are missing or given twice")
        return found


def steps_of(space: SearchSpace) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The steps of the network and of a cell."""
    network, cell = (tuple(parse_step(text) for text in texts) for texts in (space.network, space.cell))
    return network, cell


def space_names() -> tuple[str, ...]:
    """The spaces that come with the package."""
    return tuple(sorted(path.stem for path in SPACES.glob("*.yaml")))


def load_space(name: str | Path) -> SearchSpace:
    """A space of the package by its name, or a file of the user's own; UsageError, one line, for what is wrong."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        return _checked(read_mapping(path, "a search space", "parts", UsageError), str(path))
    if str(name) not in space_names():
        raise UsageError(f"no search space is named {str(name)!r}; {nearest(str(name), space_names())}, or give a FILE")
    return load_space(SPACES / f"{name}.yaml")


def _check_bits(where: str, widths: tuple[int, ...]) -> None:
    for bits in widths:
        if bits not in BITS:
            raise ValueError(f"{where}{bits} is not a bit width that layers can have ({', '.join(map(str, BITS))})")
    if len(set(widths)) < len(widths):
        raise ValueError(f"{where}a bit width is given twice")


def _checked(data: dict[str, object], where: str) -> SearchSpace:
    try:
        return SearchSpace.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{where}: {place + ': ' if place else ''}{message}") from error
