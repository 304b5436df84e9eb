"""Precision: what quantised layers compute in, and what a request may ask for in it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from bitwright.foundation.errors import UsageError
from bitwright.foundation.suggest import nearest

if TYPE_CHECKING:
    from hw_profiles import DeviceProfile


class Precision(StrEnum):
    """What quantised layers compute in."""

    INT8 = "int8"
    FP8 = "fp8"
    W4A16 = "w4a16"
    """Weights in 4 bits, in blocks; the layer computes in 16-bit floats."""

    @property
    def stored(self) -> str:
        """What their values are, in words."""
        return {Precision.INT8: "8 bits", Precision.FP8: "fp8", Precision.W4A16: "weights in 4 bits"}[self]

    @property
    def rounded(self) -> str:
        """How they are rounded where nothing is learned, in words."""
        return "by the damage to each layer's output" if self is Precision.W4A16 else "to nearest"

    @property
    def computed(self) -> str:
        """How such a layer computes, in words."""
        return {
            Precision.INT8: "on integers", Precision.FP8: "in fp8", Precision.W4A16: "on weights in 4 bits",
        }[self]  # fmt: skip

    @property
    def kernel(self) -> str:
        """What its kernel is called."""
        return {
            Precision.INT8: "integer kernel", Precision.FP8: "fp8 kernel", Precision.W4A16: "kernel for 4-bit weights",
        }[self]  # fmt: skip


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
    if precision is not Precision.INT8 and not _has(profile, precision, runtime):
        where = profile.id if runtime is None else f"{profile.id} with {runtime}"
        known = ", ".join(other.id for other in list_profiles() if _has(other, precision, None))
        raise UsageError(f"--precision {precision}: {where} has no native {precision}; these devices have: {known}")


def _has(profile: DeviceProfile, precision: Precision, runtime: str | None) -> bool:
    """Whether the profile has a native rule of a precision, in the runtime if one is named."""
    rules = [rule for rule in profile.rules(runtime) if rule.native]
    return any(rule.fp8 if precision is Precision.FP8 else rule.in_blocks for rule in rules)
