"""DeviceProfile: what a device can legally execute, what it costs, and where each number came from."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from hw_profiles.model import Count, Part
from hw_profiles.precision import PrecisionRule, RuleId
from hw_profiles.provenance import Provenance, covering, exists, uncovered
from hw_profiles.resources import Compute, Cost, Limits, Measure, Memory, Power
from hw_profiles.terms import DeviceKind, DType, Op, RuntimeEngine


class Arch(Part):
    """The architecture. `features` are instruction-set flags as Linux names them; `names` are patterns (`*` stands for
    anything) of what a board or GPU calls itself. A host fits when it has every feature and, where given, a name.
    """

    family: str
    isa: str | None = None
    features: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


class QdqStyle(StrEnum):
    """How a runtime is told what to quantise."""

    EXPLICIT = "explicit"
    CONVERTER = "converter"


class RuntimeSupport(Part):
    """One runtime on this device: which precisions it has, and which operators it leaves in float in all of them."""

    engine: RuntimeEngine
    version: str | None = None
    qdq: QdqStyle
    precisions: tuple[RuleId, ...] = Field(min_length=1)
    bias: DType = DType.INT32
    float_ops: tuple[Op, ...] = ()

    @field_validator("version")
    @classmethod
    def _specifier(cls, version: str | None) -> str | None:
        if version is not None:
            from packaging.specifiers import InvalidSpecifier, SpecifierSet

            try:
                SpecifierSet(version)
            except InvalidSpecifier as error:
                raise ValueError("expected a version range such as '>=10,<11'") from error
        return version

    def accepts(self, version: str) -> bool:
        """Whether an installed version lies in the range; a version that cannot be read does not."""
        from packaging.specifiers import SpecifierSet
        from packaging.version import InvalidVersion, Version

        try:
            return SpecifierSet(self.version or "").contains(Version(version), prereleases=True)
        except InvalidVersion:
            return False


class Sparsity(Part):
    """A zero pattern. `native` is whether the device gains time from it; otherwise it saves size only."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    pattern: Annotated[str, Field(pattern=r"^\d+:\d+$")]
    ops: tuple[Op, ...]
    dtypes: tuple[DType, ...] = Field(alias="with")
    min_in_channels: Count | None = None
    min_out_channels: Count | None = None
    native: bool


class PixelShuffle(StrEnum):
    """What an export turns a pixel shuffle into."""

    NATIVE = "native"
    DEPTH_TO_SPACE = "depth_to_space"
    CONV_TRANSPOSE = "conv_transpose"


class Rewrite(Part):
    """Operators that the export replaces by their equals."""

    pixel_shuffle: PixelShuffle | None = None


class DeviceProfile(Part):
    """A device. Precisions are ordered, and the first legal match wins; runtimes are ordered, preferred first."""

    schema_version: Literal[1] = Field(alias="schema")
    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    name: str
    kind: DeviceKind
    notes: str = ""
    arch: Arch
    runtimes: tuple[RuntimeSupport, ...] = Field(min_length=1)
    compute: Compute = Compute()
    memory: Memory = Memory()
    power: Power = Power()
    precisions: tuple[PrecisionRule, ...] = Field(min_length=1)
    sparsity: tuple[Sparsity, ...] = ()
    limits: Limits = Limits()
    fusions: tuple[tuple[Op, ...], ...] = ()
    rewrite: Rewrite = Rewrite()
    cost: Cost = Cost()
    measure: Measure = Measure()
    provenance: dict[str, Provenance] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [rule.id for rule in self.precisions]
        if duplicates := sorted({rule for rule in ids if ids.count(rule) > 1}):
            raise ValueError(f"precisions: {duplicates[0]} is given twice")
        for runtime in self.runtimes:
            if unknown := [rule for rule in runtime.precisions if rule not in ids]:
                raise ValueError(f"runtimes: {runtime.engine} names {unknown[0]}, which is not in precisions ({ids})")
        if idle := sorted(set(ids) - {rule for runtime in self.runtimes for rule in runtime.precisions}):
            raise ValueError(f"precisions: no runtime has {idle[0]}; add it to runtimes")
        data = self.model_dump(mode="json", by_alias=True)
        if stray := [path for path in self.provenance if not exists(data, path)]:
            raise ValueError(f"provenance: {stray[0]} is not a field of this profile")
        if bare := uncovered(data, self.provenance):
            raise ValueError(f"provenance: {bare[0]} has no entry (source, status), nor has any group above it")
        return self

    def runtime(self, engine: str) -> RuntimeSupport | None:
        """The entry of one runtime, or None where the device does not have it."""
        return next((entry for entry in self.runtimes if entry.engine == engine), None)

    def rules(self, runtime: str | None = None) -> tuple[PrecisionRule, ...]:
        """The rules in order; with `runtime`, only those it has (none for a runtime that the profile lacks)."""
        if runtime is None:
            return self.precisions
        entry = self.runtime(runtime)
        return tuple(rule for rule in self.precisions if entry is not None and rule.id in entry.precisions)

    def rules_for(self, op: str, runtime: str | None = None, *, native_only: bool = False) -> tuple[PrecisionRule, ...]:
        """The rules that cover `op`, in order; for an op that `runtime` leaves in float, only the float ones."""
        entry = None if runtime is None else self.runtime(runtime)
        in_float = entry is not None and op in entry.float_ops
        return tuple(
            rule
            for rule in self.rules(runtime)
            if rule.takes(op)
            and (rule.native or not native_only)
            and not (in_float and (rule.executes_as.is_integer or rule.fp8))
        )

    def rule(self, precision: str) -> PrecisionRule | None:
        """The rule with this id."""
        return next((rule for rule in self.precisions if rule.id == precision), None)

    def resolve(
        self, op: str, weight_bits: int, act_bits: int, runtime: str | None = None, *, native_only: bool = False
    ) -> PrecisionRule | None:
        """The first rule that covers `op` at these widths, or None: not legal. A float width is 16 or 32.

        8 bits are integers here: fp8 is asked for by `fp8_rule`.
        """
        rules = self.rules_for(op, runtime, native_only=native_only)
        widths = (weight_bits, act_bits)
        return next((rule for rule in rules if (rule.weight_bits, rule.act_bits) == widths and not rule.fp8), None)

    def fp8_rule(self, op: str, runtime: str | None = None) -> PrecisionRule | None:
        """The first native rule that runs `op` with weights and activations in fp8."""
        rules = self.rules_for(op, runtime, native_only=True)
        return next((rule for rule in rules if rule.weight_dtype is rule.act_dtype is DType.FP8), None)

    @property
    def has_fp8(self) -> bool:
        """Whether any runtime of the device has a native fp8 rule."""
        return any(rule.fp8 and rule.native for rule in self.precisions)

    def native_precisions(self, op: str, runtime: str | None = None) -> tuple[PrecisionRule, ...]:
        """Rules that run `op` at the speed of their own width, in order."""
        return self.rules_for(op, runtime, native_only=True)

    def legal_bits(
        self, op: str, runtime: str | None = None, *, native_only: bool = True
    ) -> tuple[tuple[int, int], ...]:
        """(weight bits, activation bits) that a search may propose for `op`, in the profile's order; not fp8."""
        rules = self.rules_for(op, runtime, native_only=native_only)
        return tuple(dict.fromkeys((rule.weight_bits, rule.act_bits) for rule in rules if not rule.fp8))

    def legal_ops(self, precision: str) -> tuple[Op, ...]:
        """Operators that the rule with this id covers ((Op.ANY,): all); empty for an unknown id."""
        rule = self.rule(precision)
        return () if rule is None else rule.ops

    def channel_multiple(self, precision: str) -> int | None:
        """What an export pads channel counts to, for a rule id or an executed type; None: unknown, do not pad."""
        return self.limits.channel_multiple.get(self._executed(precision))

    def channel_step(self, precision: str) -> int | None:
        """What a search should choose channel counts by, for a rule id or an executed type; None: unknown."""
        return self.limits.channel_step.get(self._executed(precision))

    def source_of(self, path: str) -> Provenance | None:
        """The provenance of the number at a dotted path, such as `memory.dram_gb_s`."""
        key = covering(path, self.provenance)
        return None if key is None else self.provenance[key]

    def hash(self) -> str:
        """Hex SHA-256 of the profile as canonical JSON: sorted keys, no spaces, defaults written out."""
        data = self.model_dump(mode="json", by_alias=True)
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def _executed(self, precision: str) -> DType:
        rule = self.rule(precision)
        if rule is not None:
            return rule.executes_as
        try:
            return DType(precision)
        except ValueError as error:
            known = ", ".join(entry.id for entry in self.precisions)
            raise KeyError(f"{precision} is not a precision of {self.id} (it has {known})") from error
