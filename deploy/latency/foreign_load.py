"""How much of the machine other processes use, before and while an engine is timed.

The load average would not do: it remembers our own last minute, and on a machine of many cores it says little.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation import progress


class LoadGate(BaseModel):
    """When the machine counts as quiet, and how long to wait for that before going on with a `noisy` stamp."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_foreign_share: float = Field(default=0.1, ge=0, description="of all cores")
    wait_seconds: float = Field(default=20.0, ge=0)
    window_seconds: float = Field(default=0.5, gt=0)

    @property
    def max_foreign_cores(self) -> float:
        """The limit in busy cores of this machine."""
        return self.max_foreign_share * (psutil.cpu_count() or 1)


@dataclass(frozen=True)
class CpuReading:
    """Counters at one moment, in seconds: wall clock, CPU time of the whole machine, CPU time of our own processes."""

    wall: float
    machine: float
    own: float

    @classmethod
    def take(cls, pids: Sequence[int] = ()) -> CpuReading:
        """Read the counters; `pids` are our own processes beside this one. Time stolen by a hypervisor is foreign."""
        times = psutil.cpu_times()
        busy = (
            times.user + times.system + sum(getattr(times, name, 0.0) for name in ("nice", "irq", "softirq", "steal"))
        )
        own = time.process_time()
        for pid in pids:
            spent = psutil.Process(pid).cpu_times()
            own += spent.user + spent.system
        return cls(time.monotonic(), busy, own)

    def foreign_cores_until(self, later: CpuReading) -> float:
        """Mean number of cores that others kept busy between the two readings; counters tick, so never below 0."""
        foreign = (later.machine - self.machine) - (later.own - self.own)
        return max(0.0, foreign / max(later.wall - self.wall, 1e-9))


def wait_for_quiet(gate: LoadGate) -> tuple[float, float]:
    """Wait under `gate`; returns the foreign load last seen, in cores, and the seconds waited."""
    started = time.monotonic()
    told = False
    while True:
        before = CpuReading.take()
        time.sleep(gate.window_seconds)
        foreign = before.foreign_cores_until(CpuReading.take())
        waited = time.monotonic() - started
        if foreign <= gate.max_foreign_cores or waited >= gate.wait_seconds:
            return foreign, waited
        if not told:
            progress.note(f"waiting for a quiet machine: others keep {foreign:.1f} cores busy")
            told = True
