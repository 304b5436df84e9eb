"""The resident memory of this process: now, at most while a block ran, and given back where nothing uses it."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from types import TracebackType
from typing import Self

import psutil

from deploy.latency.timing import process_memory

EVERY_S = 0.02


class ResidentPeak:
    """The largest resident set of this process while a block runs.

    Where that is the largest since the process began, Linux tells it. Otherwise it is sampled every 20 ms in a thread,
    which misses shorter peaks, and those of a runtime that lets no other thread of Python run.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="resident memory")
        self._before = process_memory("VmHWM")
        self.bytes = resident_bytes()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.sample()

    def sample(self) -> int:
        """Look once more, and return the peak so far in bytes."""
        highest = process_memory("VmHWM")
        told = highest if highest is not None and highest != self._before else 0
        self.bytes = max(self.bytes, told, int(self._process.memory_info().rss))
        return self.bytes

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S):
            self.sample()


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def release_free_memory() -> None:
    """Collect garbage, and give what the C library keeps for later back to the system (glibc only).

    Without it, memory that is free counts as resident until something uses it again.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
