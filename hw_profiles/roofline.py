"""Roofline estimate: the time of a layer from peaks, for where nothing was measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from hw_profiles.precision import PrecisionRule
from hw_profiles.schema import DeviceProfile
from hw_profiles.terms import DType, Status
from hw_profiles.traffic import bytes_moved

ESTIMATED = "estimated"
_LEAST_TRUSTED_LAST = (Status.MEASURED, Status.PUBLISHED, Status.DERIVED, Status.UNVERIFIED)


class Bound(StrEnum):
    """What limits a layer."""

    COMPUTE = "compute"
    MEMORY = "memory"


@dataclass(frozen=True)
class Rate:
    """A peak per second (operations or bytes) and the least trusted status among the numbers behind it."""

    per_second: float
    status: Status


@dataclass(frozen=True)
class Estimate:
    """An estimated time in ms. `launch_ms` None: the launch cost is unknown and not in `ms`.

    `status` is that of the least trusted number in it; `label` is what to print beside it.
    """

    ms: float
    compute_ms: float
    memory_ms: float
    launch_ms: float | None
    bound: Bound
    status: Status
    label: str = ESTIMATED


def peak_rate(profile: DeviceProfile, executes_as: DType, cores: int = 1) -> Rate | None:
    """Peak operations per second, two per multiply-accumulate: per core x cores where known so, else device-wide."""
    per_core = profile.compute.peak_gops_per_core.get(executes_as)
    if per_core is not None:
        return Rate(per_core * 1e9 * cores, _status(profile, f"compute.peak_gops_per_core.{executes_as}"))
    peak = profile.compute.peak_tops.get(executes_as)
    if peak is None or peak.dense is None:
        return None
    return Rate(peak.dense * 1e12, _status(profile, f"compute.peak_tops.{executes_as}.dense"))


def bandwidth(profile: DeviceProfile, cores: int = 1) -> Rate | None:
    """Bytes per second from DRAM: what `cores` can draw, and no more than the memory gives."""
    total, per_core = profile.memory.dram_gb_s, profile.memory.dram_gb_s_per_core
    known = []
    if total is not None:
        known.append(Rate(total * 1e9, _status(profile, "memory.dram_gb_s")))
    if per_core is not None:
        known.append(Rate(per_core * 1e9 * cores, _status(profile, "memory.dram_gb_s_per_core")))
    return min(known, key=lambda rate: rate.per_second, default=None)


def estimate_ms(
    macs: int, bytes_: int, executes_as: DType | str, profile: DeviceProfile, cores: int = 1
) -> Estimate | None:
    """max(2 x MACs / peak, bytes / bandwidth) + launch, in ms; None where the peak or the bandwidth is unknown.

    `macs` are multiply-accumulates, `bytes_` the bytes moved, `executes_as` the type that really runs (a rule's, not
    the plan's); `cores` matters to devices whose peak is given per core. Williams, Waterman, Patterson, 2009.
    """
    if cores < 1 or macs < 0 or bytes_ < 0:
        raise ValueError(f"not a layer on a device: {macs} MACs, {bytes_} bytes, {cores} cores")
    peak = peak_rate(profile, DType(executes_as), cores)
    stream = bandwidth(profile, cores)
    if peak is None or stream is None:
        return None
    compute_ms = 2 * macs / peak.per_second * 1e3
    memory_ms = bytes_ / stream.per_second * 1e3
    launch_us = profile.cost.launch_us
    launch_ms = None if launch_us is None else launch_us / 1e3
    statuses = [peak.status, stream.status]
    if launch_us is not None:
        statuses.append(_status(profile, "cost.launch_us"))
    return Estimate(
        ms=max(compute_ms, memory_ms) + (launch_ms or 0.0),
        compute_ms=compute_ms,
        memory_ms=memory_ms,
        launch_ms=launch_ms,
        bound=Bound.COMPUTE if compute_ms >= memory_ms else Bound.MEMORY,
        status=max(statuses, key=_LEAST_TRUSTED_LAST.index),
    )


def rule_ms(
    rule: PrecisionRule, macs: int, weights: int, inputs: int, outputs: int, profile: DeviceProfile, cores: int = 1
) -> float | None:
    """Estimated ms of a layer executed by a rule; None where the peak or the bandwidth is unknown.

    `weights`, `inputs` and `outputs` are counts of values, which move in the types that the rule stores them in. An
    emulated width takes `slowdown` times as long as what it is executed as.
    """
    moved = bytes_moved(weights, inputs, outputs, rule.weight_dtype.bits, rule.act_dtype.bits)
    found = estimate_ms(macs, moved, rule.executes_as, profile, cores)
    return None if found is None else found.ms * slowdown(rule)


def slowdown(rule: PrecisionRule) -> float:
    """Time of a rule over that of what it is executed as; 1 where it was not measured."""
    return 1.0 if rule.emulation is None else rule.emulation.slowdown or 1.0


def assumed_slowdowns(rules: Iterable[PrecisionRule]) -> str:
    """What to say of a cost in which slowdowns that were not measured are taken as 1; empty without any."""
    unknown = sorted({rule.id for rule in rules if rule.emulation is not None and rule.emulation.slowdown is None})
    return f"slowdown of emulated {', '.join(unknown)} not measured, taken as 1" if unknown else ""


def _status(profile: DeviceProfile, path: str) -> Status:
    entry = profile.source_of(path)
    return Status.UNVERIFIED if entry is None else entry.status
