"""What a runtime gains from zeros: the capability table, as data. Unknown means no acceleration."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation.yaml_file import parse_yaml
from hw_profiles.terms import DType, Op

SIZE_ONLY = "size only"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SparseKernels(_Part):
    """Patterns for which a runtime has kernels, under all conditions of the entry."""

    runtime: str
    patterns: tuple[Annotated[str, Field(pattern=r"^\d+:\d+$")], ...]
    ops: tuple[Op, ...]
    dtypes: tuple[DType, ...]
    features: tuple[str, ...] = Field(description="features of the device's architecture that the kernels need")
    work: float = Field(gt=0, lt=1, description="share of the dense work that is left at best")
    enable: str
    constraints: str
    min_in_channels: int = 1
    min_out_channels: int = 1
    versions: str = ""
    source: str


class SizeOnly(_Part):
    """A runtime that gains no time from zeros, or of which no gain is known."""

    runtime: str
    note: str
    source: str


class _Table(_Part):
    schema_version: Literal[1] = Field(alias="schema")
    entries: tuple[SparseKernels, ...]
    size_only: tuple[SizeOnly, ...]


@cache
def support_table() -> _Table:
    """The table that comes with the package."""
    text = resources.files("hw_profiles").joinpath("sparsity_support.yaml").read_text(encoding="utf-8")
    return _Table.model_validate(parse_yaml(text))


def work_left(runtime: str, op: Op, dtype: DType, n: int, m: int, *, features: tuple[str, ...] = (),
              in_channels: int = 0, out_channels: int = 0) -> float:  # fmt: skip
    """The share of a layer's dense work that an N:M weight leaves at best in a runtime; 1.0 where nothing is known.

    A mask of N <= 2 in groups that fours divide, or of 1:2, is a legal 2:4 mask, and gains what 2:4 gains and no more.
    `features`: of the device's architecture. A bound for predictions, not a speed-up.
    """
    forms = {f"{n}:{m}"} | ({"2:4"} if (n <= 2 and m % 4 == 0) or (n, m) == (1, 2) else set())
    found = [
        entry.work
        for entry in support_table().entries
        if entry.runtime == runtime
        and n < m
        and forms & set(entry.patterns)
        and op in entry.ops
        and dtype in entry.dtypes
        and set(entry.features) <= set(features)
        and in_channels >= entry.min_in_channels
        and out_channels >= entry.min_out_channels
    ]
    return min(found, default=1.0)


def reads_groups(runtime: str) -> bool:
    """Whether any kernel of a runtime reads the groups of N:M; elsewhere their length is a matter of storage."""
    return any(entry.runtime == runtime for entry in support_table().entries)


def why_size_only(runtime: str) -> str:
    """What is known of a runtime that gains nothing, in words."""
    notes = [entry.note for entry in support_table().size_only if entry.runtime == runtime]
    return notes[0] if notes else "no kernel of it is known to skip zeros here"
