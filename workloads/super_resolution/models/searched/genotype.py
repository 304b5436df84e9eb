"""Genotype: the operation and the bit width that a search chose for each layer. Versioned JSON, never executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_text
from workloads.super_resolution.models.searched.operations import Operation
from workloads.super_resolution.models.searched.space import BITS, SearchSpace, load_space, space_names
from workloads.super_resolution.models.searched.wiring import Site


class Choice(NamedTuple):
    """What a layer became."""

    operation: str
    bits: int


class Genotype(BaseModel):
    """One network of a space. `space` is the name of one that comes with the package, or the space itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    space: str | SearchSpace
    scale: int = Field(ge=1, le=8)
    width: int = Field(ge=1)
    cells: int = Field(ge=0)
    adq: bool = False
    layers: dict[str, Choice]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            sites = {site.name: site for site in self.search_space().wiring.sites}
        except UsageError as error:
            raise ValueError(str(error)) from error
        if missing := [name for name in sites if name not in self.layers]:
            raise ValueError(f"layer {missing[0]} has no choice")
        for name, choice in self.layers.items():
            if name not in sites:
                raise ValueError(f"the space has no layer {name}")
            if choice.operation not in sites[name].tokens:
                known = ", ".join(sites[name].tokens)
                raise ValueError(f"layer {name}: {choice.operation!r} is not one of its candidates ({known})")
            if choice.bits not in BITS:
                raise ValueError(f"layer {name}: {choice.bits} is not a bit width that layers can have")
        return self

    def search_space(self) -> SearchSpace:
        """The space at this genotype's size."""
        space = load_space(self.space) if isinstance(self.space, str) else self.space
        return space.resized(width=self.width, cells=self.cells, scale=self.scale)

    def operation_at(self, site: Site) -> Operation:
        """The chosen operation of a layer."""
        return site.operations[site.tokens.index(self.layers[site.name].operation)]

    @staticmethod
    def of(space: SearchSpace, layers: dict[str, Choice], *, adq: bool) -> Genotype:
        """The genotype of these choices; UsageError where they do not fit the space."""
        named = space.name in space_names() and _same(space, load_space(space.name))
        try:
            return Genotype(
                space=space.name if named else space, scale=space.scale, width=space.width, cells=space.cells,
                adq=adq, layers=layers,
            )  # fmt: skip
        except ValidationError as error:
            raise UsageError(_first(error)) from error

    @staticmethod
    def uniform(space: SearchSpace, token: str, bits: int, *, adq: bool = False) -> Genotype:
        """One operation everywhere it is a candidate (elsewhere the first candidate), at one bit width."""
        layers = {s.name: Choice(token if token in s.tokens else s.tokens[0], bits) for s in space.wiring.sites}
        return Genotype.of(space, layers, adq=adq)

    def to_json(self) -> str:
        """One line of JSON."""
        return self.model_dump_json(by_alias=True)

    @staticmethod
    def from_json(text: str, where: str) -> Genotype:
        """Read a genotype; UsageError names what does not fit, and `where`."""
        try:
            return Genotype.model_validate_json(text)
        except ValidationError as error:
            raise UsageError(f"{where} holds no genotype of schema 1: {_first(error)}") from error

    def save(self, path: Path) -> None:
        """Write indented JSON."""
        write_text(path, self.model_dump_json(indent=1, by_alias=True) + "\n")

    @staticmethod
    def load(path: Path) -> Genotype:
        """Read a file; UsageError for one that cannot be read or is no genotype."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot read the genotype {path}: {error.strerror}") from error
        return Genotype.from_json(text, str(path))


def _same(space: SearchSpace, shipped: SearchSpace) -> bool:
    """Whether both make the same networks of the same choices, at whatever size and with whatever bit widths."""
    resized: dict[str, Any] = dict.fromkeys(("width", "cells", "scale", "bits", "share_cell_alphas"), True)
    resized["layers"] = {"__all__": {"bits"}}
    return space.model_dump(exclude=resized) == shipped.model_dump(exclude=resized)


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
