"""PrecisionRule: one legal way to execute operators, with what it really runs as."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from hw_profiles.model import Count, Factor, Part
from hw_profiles.terms import DType, EmulationKind, Granularity, Op

RuleId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class TensorFormat(Part):
    """How a weight or an activation is stored. `bits` is how many of the type's bits are used (default: all)."""

    dtype: DType
    bits: Annotated[int, Field(strict=True, ge=1, le=32)] | None = None
    granularity: Granularity | None = None
    symmetric: bool | None = None
    block: Count | None = None

    @property
    def width(self) -> int:
        """Bits of information per value."""
        return self.dtype.bits if self.bits is None else self.bits

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.width > self.dtype.bits:
            raise ValueError(f"bits: {self.bits} does not fit in {self.dtype}")
        if (self.granularity is Granularity.BLOCK) != (self.block is not None):
            raise ValueError("block is the number of values per scale: give it with granularity block, and only then")
        return self


class Emulation(Part):
    """Why a rule is not native; `slowdown` is its time over that of `executes_as` (None: not measured)."""

    kind: EmulationKind
    slowdown: Factor | None = None
    note: str = ""


class PrecisionRule(Part):
    """One entry of a profile's ordered precision list.

    `weight` and `act` are None for a plain float precision: both then have the type `executes_as`.
    `reduce_range` asks for one bit less in the weights, for CPUs whose int8 multiply-add saturates at 16 bits.
    """

    id: RuleId
    ops: tuple[Op, ...] = Field(min_length=1)
    weight: TensorFormat | None = None
    act: TensorFormat | None = None
    executes_as: DType
    native: bool
    reduce_range: bool = False
    emulation: Emulation | None = None

    @property
    def weight_bits(self) -> int:
        """Bits of information per weight."""
        return self.executes_as.bits if self.weight is None else self.weight.width

    @property
    def weight_dtype(self) -> DType:
        """Type of the weights."""
        return self.executes_as if self.weight is None else self.weight.dtype

    @property
    def act_dtype(self) -> DType:
        """Type of the activations."""
        return self.executes_as if self.act is None else self.act.dtype

    @property
    def fp8(self) -> bool:
        """Whether weights or activations are 8-bit floats, which are no integers of that width."""
        return DType.FP8 in {self.weight_dtype, self.act_dtype}

    @property
    def in_blocks(self) -> bool:
        """Whether only weights are quantised, in blocks that share a scale, and multiplied in a 16-bit float."""
        blocks = self.weight is not None and self.weight.block is not None and self.weight_bits == 4
        return blocks and self.act_dtype in {DType.FP16, DType.BF16}

    @property
    def act_bits(self) -> int:
        """Bits of information per activation."""
        return self.executes_as.bits if self.act is None else self.act.width

    def takes(self, op: str) -> bool:
        """Whether the rule covers operator `op`."""
        return Op.ANY in self.ops or op in self.ops

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.native == (self.emulation is not None):
            raise ValueError(f"rule {self.id}: native is {self.native}, so emulation must be {self._wanted()}")
        named = re.fullmatch(r"w(\d+)a(\d+)", self.id)
        if named and (int(named[1]), int(named[2])) != (self.weight_bits, self.act_bits):
            raise ValueError(f"rule {self.id} has {self.weight_bits}-bit weights and {self.act_bits}-bit activations")
        return self

    def _wanted(self) -> str:
        return "absent" if self.native else "given (kind: container, dequantised or size_only)"
