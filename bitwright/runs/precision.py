"""Precision: what quantised layers compute in, and what a request may ask for in it."""

from __future__ import annotations

from enum import StrEnum

from bitwright.foundation.errors import UsageError
from bitwright.foundation.suggest import nearest


class Precision(StrEnum):
    """What quantised layers compute in."""

    INT8 = "int8"
    FP8 = "fp8"

    @property
    def stored(self) -> str:
        """What their values are, in words."""
        return "8 bits" if self is Precision.INT8 else "fp8"

    @property
    def computed(self) -> str:
        """How such a layer computes, in words."""
        return "on integers" if self is Precision.INT8 else "in fp8"

    @property
    def kernel(self) -> str:
        """What its kernel is called."""
        return "integer kernel" if self is Precision.INT8 else "fp8 kernel"


NOT_IN_FP8 = ("recover", "recover_minutes", "iterations", "sparsity", "narrow")
"""Settings of a request that need integers; each is null where it is not asked for."""


def require_device(device: str, runtime: str | None, precision: Precision) -> None:
    """UsageError unless the device has the runtime, if one is named, and the precision in it."""
    # Imported here, because a help text must not wait for it.
    from hw_profiles import list_profiles, load_profile

    profile = load_profile(device)
    engines = [entry.engine.value for entry in profile.runtimes]
    if runtime is not None and runtime not in engines:
        raise UsageError(f"--runtime {runtime}: {profile.id} has no such runtime; {nearest(runtime, engines)}")
    if precision is Precision.FP8 and not any(rule.fp8 and rule.native for rule in profile.rules(runtime)):
        where = profile.id if runtime is None else f"{profile.id} with {runtime}"
        known = ", ".join(other.id for other in list_profiles() if other.has_fp8)
        raise UsageError(f"--precision fp8: {where} has no native fp8; these devices have: {known}")
