"""What a runtime gains from zeros: the capability table, as data. Unknown means no acceleration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
    isa: str = Field(default="", description="how the name of the device's instruction set begins")
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


@dataclass(frozen=True)
class Use:
    """A product with an N:M weight: where, in what, and how many channels it sums over (`in_channels`) and gives.

    `features` and `isa`: of the device's architecture.
    """

    runtime: str
    op: Op
    dtype: DType
    n: int
    m: int
    features: tuple[str, ...] = ()
    isa: str = ""
    in_channels: int = 0
    out_channels: int = 0

    @property
    def forms(self) -> set[str]:
        """Patterns that the weight keeps: N <= 2 in groups that fours divide, and 1:2, are legal 2:4 masks."""
        two_of_four = (self.n <= 2 and self.m % 4 == 0) or (self.n, self.m) == (1, 2)
        return {f"{self.n}:{self.m}"} | ({"2:4"} if two_of_four else set())


def work_left(use: Use) -> float:
    """The share of the dense work that is left at best; 1.0 where nothing is known.

    What is sparser than 2:4 and legal there gains what 2:4 gains and no more. A bound for predictions, not a speed-up.
    """
    entries = [entry for entry in support_table().entries if entry.runtime == use.runtime]
    return min((entry.work for entry in entries if not _unmet(entry, use)), default=1.0)


def _unmet(entry: SparseKernels, use: Use) -> list[str]:
    """The conditions of an entry that a use does not meet, in words, those about the device and the operator first."""
    patterns, least = " and ".join(entry.patterns), (entry.min_in_channels, entry.min_out_channels)
    legal = bool(use.forms & set(entry.patterns))
    conditions = (
        (set(entry.features) <= set(use.features), "the device has no sparse tensor cores"),
        (use.isa.startswith(entry.isa), f"its {patterns} kernels for {_all(entry.dtypes)} are for {entry.isa}x only"),
        (use.op in entry.ops, f"its {patterns} kernels are for {_all(entry.ops)}"),
        (use.dtype in entry.dtypes, f"its {patterns} kernels compute in {_all(entry.dtypes)}"),
        (legal, f"{use.n}:{use.m} weights need not be {patterns}, which its kernels read"),
        (
            use.in_channels >= least[0] and use.out_channels >= least[1],
            f"its {patterns} kernels need at least {least[0]} input and {least[1]} output channels",
        ),
    )  # fmt: skip
    return [words for met, words in conditions if not met]


def _all(terms: Iterable[Op | DType]) -> str:
    return ", ".join(term.value for term in terms)


def reads_groups(runtime: str) -> bool:
    """Whether any kernel of a runtime reads the groups of N:M; elsewhere their length is a matter of storage."""
    return any(entry.runtime == runtime for entry in support_table().entries)


def why_size_only(use: Use) -> str:
    """Why a use gains nothing, in words: what is known of the runtime, or the condition of its kernels that fails."""
    notes = [entry.note for entry in support_table().size_only if entry.runtime == use.runtime]
    unmet = [_unmet(entry, use) for entry in support_table().entries if entry.runtime == use.runtime]
    if not unmet or not all(unmet):
        return notes[0] if notes else "no kernel of it is known to skip zeros here"
    return min(unmet, key=len)[0]
