"""Ordered work on all cores: results come in the order of the items, and only a few are in flight."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `function` in threads and yield the results in order, with at most one more than the cores in flight.

    Meant for functions that release the interpreter lock (image decoding, array arithmetic). An exception surfaces at
    its item; what has not begun by then is cancelled, as it is when the caller stops early.
    """
    pool = ThreadPoolExecutor(cores(), thread_name_prefix="bitwright-data")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > cores():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
