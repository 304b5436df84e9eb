"""Precision: what layers compute in, and what a request may ask for in it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from bitwright.foundation.errors import UsageError
from bitwright.foundation.suggest import nearest

if TYPE_CHECKING:
    from hw_profiles import DeviceProfile, PrecisionRule


class Precision(StrEnum):
    """What quantised layers compute in; of fp16 and bf16 nothing is quantised."""

    INT8 = "int8"
    FP8 = "fp8"
    W4A16 = "w4a16"
    """Weights in 4 bits, in blocks; the layer computes in 16-bit floats."""
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def is_float(self) -> bool:
        """Whether every layer stays in float."""
        return self in {Precision.FP16, Precision.BF16}

    @property
    def stored(self) -> str:
        """What their values are, in words."""
        return {Precision.INT8: "8 bits", Precision.W4A16: "weights in 4 bits"}.get(self, self.value)

    @property
    def rounded(self) -> str:
        """How they are rounded where nothing is learned, in words."""
        return "by the damage to each layer's output" if self is Precision.W4A16 else "to nearest"

    @property
    def computed(self) -> str:
        """How such a layer computes, in words."""
        words = {Precision.INT8: "on integers", Precision.W4A16: "on weights in 4 bits"}
        return words.get(self, f"in {self.value}")

    @property
    def kernel(self) -> str:
        """What its kernel is called."""
        words = {Precision.INT8: "integer kernel", Precision.W4A16: "kernel for 4-bit weights"}
        return words.get(self, f"{self.value} kernel")


ON_INTEGERS = ("recover", "recover_minutes", "iterations", "sparsity", "narrow")
"""Settings of a request that need integers; each is null where it is not asked for."""


def require_device(device: str, runtime: str | None, precision: Precision) -> None:
    """UsageError unless the device has the runtime, if one is named, and the precision in it."""
    # Imported here, because a help text must not wait for it.
    from hw_profiles import list_profiles, load_profile

    profile = load_profile(device)
    engines = [entry.engine.value for entry in profile.runtimes]
    if runtime is not None and runtime not in engines:
        raise UsageError(f"--runtime {runtime}: {profile.id} has no such runtime; {nearest(runtime, engines)}")
    where = profile.id if runtime is None else f"{profile.id} with {runtime}"
    if runtime is not None and precision is Precision.INT8 and not has(profile, precision, runtime):
        floats = [p.value for p in Precision if p.is_float and has(profile, p, runtime)]
        instead = (
            f"give --precision {' or '.join(floats)}, or another --runtime" if floats else "take another --runtime"
        )
        raise UsageError(f"--runtime {runtime}: {where} has no native int8; {instead}")
    if precision is not Precision.INT8 and not has(profile, precision, runtime):
        known = ", ".join(other.id for other in list_profiles() if has(other, precision, None))
        raise UsageError(f"--precision {precision}: {where} has no native {precision}; these devices have: {known}")


def has(profile: DeviceProfile, precision: Precision, runtime: str | None) -> bool:
    """Whether the profile has a native rule of a precision, in the runtime if one is named."""
    return any(rule.native and _is(rule, precision) for rule in profile.rules(runtime))


def _is(rule: PrecisionRule, precision: Precision) -> bool:
    if precision is Precision.W4A16:
        return rule.in_blocks
    if precision.is_float:
        return rule.weight is None and rule.executes_as.value == precision.value
    return rule.fp8 if precision is Precision.FP8 else rule.executes_as.is_integer
