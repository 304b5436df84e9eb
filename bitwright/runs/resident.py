"""The resident memory of this process: now, at most while a block ran, and given back where nothing uses it."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from types import TracebackType
from typing import Self

import psutil

EVERY_S = 0.02


class ResidentPeak:
    """Samples the resident set every 20 ms in a thread of its own, so shorter peaks may be missed."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="resident memory")
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
        self.bytes = max(self.bytes, int(self._process.memory_info().rss))
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
