"""TimedNetwork: the timed region itself, in the process that holds the network."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.latency.steadiness import is_steady

_GROWTH = 1.25

Stages = tuple[float, float, float]
"""Ms of a run on a GPU by its own clock: the copy to it, the computation, the copy back."""


@dataclass(frozen=True)
class Runs:
    """Nanoseconds of each recorded run: wall clock, and CPU time of the whole process; `gpu_ms`: of one on a GPU."""

    wall_ns: tuple[int, ...]
    cpu_ns: tuple[int, ...]
    gpu_ms: tuple[Stages, ...] = ()


class TimedNetwork:
    """A loaded network, given as the function that runs it, with the one input that it is timed on.

    `stages`: tells the stages of the last run on a GPU, None for a network on the processor.
    """

    def __init__(
        self,
        run: Callable[[np.ndarray], np.ndarray],
        x: np.ndarray,
        stages: Callable[[], Stages | None] = lambda: None,
    ) -> None:
        self._run = run
        self._x = x
        self._stages = stages
        self.output_shape: tuple[int, ...] | None = None
        """Shape of the last output; None before the first recorded run."""

    def time(self, count: int, settle: int = 0) -> Runs:
        """Time each of `count` runs after `settle` others, the copy of the output included, its release excluded."""
        for _ in range(settle):
            self._run(self._x)
        wall: list[int] = []
        cpu: list[int] = []
        gpu: list[Stages] = []
        gc.disable()
        try:
            for _ in range(count):
                cpu_start = time.process_time_ns()
                start = time.perf_counter_ns()
                output = self._run(self._x)
                end = time.perf_counter_ns()
                cpu.append(time.process_time_ns() - cpu_start)
                wall.append(end - start)
                self.output_shape = output.shape
                del output
                stages = self._stages()
                if stages is not None:
                    gpu.append(stages)
        finally:
            gc.enable()
        return Runs(tuple(wall), tuple(cpu), tuple(gpu))

    def warm_up(
        self, *, min_runs: int, min_seconds: float, max_seconds: float, tolerance: float
    ) -> tuple[tuple[int, ...], bool]:
        """Run until steady; returns wall ns of each run, and False where `max_seconds` ended it before.

        The check costs time, so it is made each time the samples have grown by a quarter.
        """
        wall: list[int] = []
        started = time.perf_counter()
        next_check = min_runs
        while True:
            wall += self.time(1).wall_ns
            elapsed = time.perf_counter() - started
            if len(wall) >= next_check and elapsed >= min_seconds:
                if is_steady(wall, tolerance):
                    return tuple(wall), True
                next_check = max(len(wall) + 1, int(len(wall) * _GROWTH))
            if elapsed >= max_seconds and len(wall) >= min_runs:
                return tuple(wall), False


def process_memory(field: str, pid: int | None = None) -> int | None:
    """Bytes of `VmHWM` (peak) or `VmRSS` (now) of a process, by default this one; None where Linux tells none.

    getrusage would not do: on Linux its peak is inherited from the parent across fork and exec.
    """
    try:
        status = Path(f"/proc/{'self' if pid is None else pid}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def usable_cores() -> tuple[int, ...] | None:
    """The cores that this process may run on; None where the system has no such masks."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None
