"""How much of the machine other processes use, before and while an engine is timed.

The load average would not do: it remembers our own last minute, and on a machine of many cores it says little.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.foundation import progress
from deploy.latency import processor_time


@dataclass(frozen=True)
class CpuReading:
    """Counters at one moment, in seconds: wall clock, CPU time of the whole machine, CPU time of our own processes."""

    wall: float
    machine: float
    own: float

    @classmethod
    def take(cls, pids: Sequence[int] = ()) -> CpuReading:
        """Read the counters; `pids` are our own processes beside this one. Time stolen by a hypervisor is foreign."""
        own = time.process_time() + sum(map(processor_time.of_process, pids))
        return cls(time.monotonic(), processor_time.of_machine(), own)

    def foreign_cores_until(self, later: CpuReading) -> float:
        """Mean number of cores that others kept busy between the two readings; counters tick, so never below 0."""
        foreign = (later.machine - self.machine) - (later.own - self.own)
        return max(0.0, foreign / max(later.wall - self.wall, 1e-9))


def wait_for_quiet(max_foreign_cores: float, wait_seconds: float, window_seconds: float) -> tuple[float, float]:
    """Wait until others keep at most `max_foreign_cores` busy over a window, at most `wait_seconds`.

    Returns the foreign load last seen, in cores, and the seconds waited.
    """
    started = time.monotonic()
    told = False
    while True:
        before = CpuReading.take()
        time.sleep(window_seconds)
        foreign = before.foreign_cores_until(CpuReading.take())
        waited = time.monotonic() - started
        if foreign <= max_foreign_cores or waited >= wait_seconds:
            return foreign, waited
        if not told:
            progress.note(f"waiting for a quiet machine: others keep {foreign:.1f} cores busy")
            told = True
