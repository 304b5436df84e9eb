"""PrintedProgress: progress as plain lines, for a terminal or for the other end of a connection."""

from __future__ import annotations

import os
import re
from typing import TextIO

_STEP = re.compile(r"(.*): step (\d+)(?: of about (\d+))?")


class PrintedProgress:
    """A progress listener that prints a line for each step. When nobody reads any more, it falls silent."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tasks: list[tuple[str, int | None, int]] = []

    def start(self, description: str, total: int | None) -> int:
        """Open a task."""
        self._tasks.append((description, total, 0))
        return len(self._tasks) - 1

    def advance(self, handle: int, steps: int = 1) -> None:
        """Print how far the task is."""
        description, total, done = self._tasks[handle]
        self._tasks[handle] = (description, total, done + steps)
        of = "" if total is None else f" of about {max(total, done + steps)}"
        self.note(f"{description}: step {done + steps}{of}")

    def stop(self, handle: int) -> None:
        """Close a task; its last step has told all."""

    def note(self, message: str) -> None:
        """Print one line."""
        try:
            self._stream.write(message + "\n")
            self._stream.flush()
        except (BrokenPipeError, OSError):
            # The interpreter would complain when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def parse_step(line: str) -> tuple[str, int, int | None] | None:
    """Description, steps done and total of a line that tells a step; None for any other line."""
    found = _STEP.fullmatch(line)
    return None if found is None else (found[1], int(found[2]), int(found[3]) if found[3] else None)
