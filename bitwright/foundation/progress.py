"""Progress of long loops, told to whoever listens: silent by default, a bar with ETA on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Reporter(Protocol):
    """Receives progress events."""

    def start(self, description: str, total: int | None) -> int:
        """Open a task of `total` steps (None: unknown) and return its handle."""
        ...

    def advance(self, handle: int, steps: int = 1) -> None:
        """Report `steps` more steps done."""
        ...

    def stop(self, handle: int) -> None:
        """Close the task."""
        ...

    def note(self, message: str) -> None:
        """Report one line of plain information, such as a skipped file."""
        ...


class _Silent:
    def start(self, description: str, total: int | None) -> int:
        return 0

    def advance(self, handle: int, steps: int = 1) -> None:
        return None

    def stop(self, handle: int) -> None:
        return None

    def note(self, message: str) -> None:
        return None


_SILENT = _Silent()
_reporter: ContextVar[Reporter] = ContextVar("bitwright_progress", default=_SILENT)


@contextmanager
def reporting_to(reporter: Reporter) -> Iterator[None]:
    """Send the progress of everything inside the block to `reporter`."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def current() -> Reporter:
    """Who listens now; lets a second listener, such as a log, pass on what it hears."""
    return _reporter.get()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` and report each one; `total` defaults to their length where it is known."""
    reporter = _reporter.get()
    if total is None and isinstance(items, Sized):
        total = len(items)
    handle = reporter.start(description, total)
    try:
        for item in items:
            yield item
            reporter.advance(handle)
    finally:
        reporter.stop(handle)


def note(message: str) -> None:
    """Tell the listener one line, such as the name of a skipped file."""
    _reporter.get().note(message)
