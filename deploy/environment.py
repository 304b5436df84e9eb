"""The machine and software that a number was measured on, with a fingerprint that tells two of them apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation import progress
from deploy.heat import read_heat
from deploy.machine import LIBRARIES, clock_mhz, decisive, differences, read_machine
from deploy.nvidia_gpus import HOLDING_BACK

__all__ = ["LIBRARIES", "Environment", "Gpu", "GpuHeat", "Heat", "clock_mhz", "machine_differences", "same_machine"]


class Gpu(BaseModel):
    """A GPU of the machine as NVML tells of it; None where it does not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    driver: str | None
    compute_capability: str | None
    max_clock_mhz: float | None = Field(description="the highest clock of its multiprocessors")
    power_limit_w: float | None


class GpuHeat(BaseModel):
    """How fast and warm a GPU runs at one moment, and why not faster; None where it does not tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clock_mhz: float | None = Field(description="of its multiprocessors")
    memory_clock_mhz: float | None
    temperature_c: float | None
    throttle_reasons: tuple[str, ...] | None
    power_violation_ns: int | None = Field(
        default=None, description="how long its power limit has held it below its clocks since the driver was loaded"
    )
    thermal_violation_ns: int | None = Field(default=None, description="the same of its heat")

    @property
    def held_back(self) -> bool:
        """Whether it is known to run below the clocks that it was set to, at this very moment."""
        return bool(HOLDING_BACK & set(self.throttle_reasons or ()))

    def held_back_until(self, later: GpuHeat) -> bool:
        """Whether its counters tell that it was, between this moment and `later`."""
        return _grew(self.power_violation_ns, later.power_violation_ns) or _grew(
            self.thermal_violation_ns, later.thermal_violation_ns
        )


class Environment(BaseModel):
    """Where a measurement was taken; a value that the system does not tell is None, never a guess."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_model: str
    architecture: str
    cpu_flags: tuple[str, ...] = Field(description="the instruction sets that decide which kernels a runtime picks")
    virtual_machine: bool | None
    emulator: str | None = Field(
        default=None, description="what translates instructions for another processor; times then tell nothing"
    )
    logical_cores: int
    physical_cores: int | None
    usable_cores: int = Field(description="logical cores that this process may run on")
    core_kinds: dict[str, tuple[int, ...]] = Field(
        default_factory=dict, description="cores of each kind where there are several, as in big.LITTLE"
    )
    governor: str | None
    boost: bool | None
    smt: bool | None
    memory_bytes: int
    os: str
    kernel: str
    python: str
    libraries: dict[str, str]
    load_average: tuple[float, float, float] | None
    clock_mhz: float | None = Field(description="mean clock of the cores when recorded")
    command: tuple[str, ...]
    gpus: tuple[Gpu, ...] = Field(default=(), description="the GPUs that NVML tells of")

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 over all that decides speed; load, clock and command are left out."""
        text = json.dumps(decisive(self.model_dump(mode="json")), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def record(cls, root: Path = Path("/")) -> Self:
        """Read this machine; `root` is where `proc` and `sys` are found."""
        return cls.model_validate(read_machine(root))


class Heat(BaseModel):
    """How warm a machine is and whether it holds its clocks back, at one moment; None where it does not tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clock_mhz: float | None
    temperature_c: float | None = Field(description="the warmest sensor of the processor, degrees Celsius")
    throttle_events: int | None = Field(description="how often the processor has throttled since it started")
    held_back: bool | None = Field(description="whether its clock is limited now, by heat, power or a setting")
    gpus: tuple[GpuHeat, ...] = Field(default=(), description="in the order of `Environment.gpus`")

    @classmethod
    def record(cls, root: Path = Path("/")) -> Self:
        """Read this machine; `root` is where `proc` and `sys` are found."""
        return cls.model_validate(read_heat(root))

    def throttled_until(self, later: Heat, *, gpus: bool) -> bool:
        """Whether the machine is known to have slowed itself down between this moment and `later`.

        `gpus`: whether its GPUs count, as they do where something of ours ran on one; all of them do then, because
        which one it was is not known.
        """
        if self.held_back or later.held_back or _grew(self.throttle_events, later.throttle_events):
            return True
        if not gpus:
            return False
        if any(gpu.held_back for gpu in (*self.gpus, *later.gpus)):
            return True
        return any(before.held_back_until(after) for before, after in zip(self.gpus, later.gpus, strict=False))


def _grew(before: int | None, after: int | None) -> bool:
    """Whether a count that only grows did; one that has become smaller began anew in between."""
    return before is not None and after is not None and after > (before if after >= before else 0)


def machine_differences(a: Environment, b: Environment) -> tuple[str, ...]:
    """One phrase for each difference that could explain a difference in speed, as 'name: a's value, b's value'."""
    return differences(a.model_dump(mode="json"), b.model_dump(mode="json"))


def same_machine(a: Environment, b: Environment) -> bool:
    """Whether times taken in `a` and `b` may be compared; where not, the listener is told what differs."""
    found = machine_differences(a, b)
    if found:
        progress.note(f"warning: times from two environments do not compare ({'; '.join(found)})")
    return not found
