"""CPU time of the whole machine and of single processes, in seconds."""

from __future__ import annotations

import os
from pathlib import Path

from bitwright.foundation.optional import require

_PROC = Path("/proc")
_IDLE = (3, 4)
_COUNTED = 8


def of_machine() -> float:
    """CPU time that all cores spent at work since the machine started; time stolen by a hypervisor counts."""
    if not (_PROC / "stat").is_file():
        times = require("psutil").cpu_times()
        return float(times.user + times.system + getattr(times, "nice", 0.0))
    # user nice system idle iowait irq softirq steal; what follows is contained in user and nice (proc(5)).
    ticks = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1 : 1 + _COUNTED]
    return sum(int(value) for place, value in enumerate(ticks) if place not in _IDLE) / _ticks_per_second()


def of_process(pid: int) -> float:
    """CPU time of one process, user and system; ProcessLookupError where it has gone."""
    if not (_PROC / "stat").is_file():
        times = require("psutil").Process(pid).cpu_times()
        return float(times.user + times.system)
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} has ended") from error
    # The name of the program stands in brackets and may hold anything, brackets and spaces too.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _ticks_per_second()


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK")
