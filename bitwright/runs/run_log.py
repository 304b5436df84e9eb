"""The log of a run: every note and long loop with its time, passed on to whoever listened before."""

from __future__ import annotations

import itertools
import time
from datetime import datetime
from pathlib import Path

from bitwright.foundation.files import explain_os_error
from bitwright.foundation.progress import Reporter


class RunLog:
    """Appends lines to a file, each with the local time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._closed = False

    def close(self) -> None:
        """Write nothing more: loops that an error broke off are told of late, when the folder may be gone."""
        self._closed = True

    def write(self, message: str) -> None:
        """Append `message`; OutputError where that is not possible."""
        if self._closed:
            return
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.writelines(f"{stamp}  {line}\n" for line in message.splitlines() or [""])
        except OSError as error:
            raise explain_os_error(error, self.path) from error


class LoggingReporter:
    """A progress listener that writes what it hears to a log and passes it on."""

    def __init__(self, inner: Reporter, log: RunLog) -> None:
        self._inner = inner
        self._log = log
        self._handles = itertools.count()
        self._open: dict[int, tuple[int, str, float]] = {}

    def start(self, description: str, total: int | None) -> int:
        """Open a task."""
        handle = next(self._handles)
        self._open[handle] = (self._inner.start(description, total), description, time.monotonic())
        return handle

    def advance(self, handle: int, steps: int = 1) -> None:
        """Pass steps on; the log does not hold them."""
        self._inner.advance(self._open[handle][0], steps)

    def stop(self, handle: int) -> None:
        """Close a task; log how long it took, unless it was part of another."""
        inner, description, since = self._open.pop(handle)
        # Loops inside a loop are too many to be read one by one.
        if not self._open:
            self._log.write(f"{description}: {time.monotonic() - since:.1f} s")
        self._inner.stop(inner)

    def note(self, message: str) -> None:
        """Log a line and pass it on."""
        self._log.write(message)
        self._inner.note(message)
