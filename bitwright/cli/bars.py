"""Progress on stderr: bars with the time left on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn
from rich.text import Text

WORTH_TELLING_S = 2.0
LINE_EVERY_S = 10.0


class BarReporter:
    """Bars on a terminal. A task that took over 2 s leaves a line with its time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, TimeLeftColumn(), console=console, transient=True)
        self._begun: dict[int, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, description: str, total: int | None) -> int:
        """Show a bar."""
        with self._lock:
            if not self._begun:
                self._bars.start()
            handle = int(self._bars.add_task(Text(description).markup, total=total))
            self._begun[handle] = (description, time.monotonic())
        return handle

    def advance(self, handle: int, steps: int = 1) -> None:
        """Move a bar."""
        self._bars.advance(TaskID(handle), steps)

    def stop(self, handle: int) -> None:
        """Take a bar away; the last one stops the display."""
        with self._lock:
            description, begun = self._begun.pop(handle)
            self._bars.remove_task(TaskID(handle))
            if not self._begun:
                self._bars.stop()
        seconds = time.monotonic() - begun
        if seconds >= WORTH_TELLING_S:
            self.note(f"{description}: {seconds:.0f} s")

    def note(self, message: str) -> None:
        """Print a line above the bars."""
        self._console.print(Text(message), soft_wrap=True)


@dataclass
class _Task:
    description: str
    total: int | None
    begun: float
    told: float
    done: int = 0


class LineReporter:
    """Lines for a log file or a pipe: at most one in ten seconds for a task, and one when a long one ends."""

    def __init__(self, console: Console, every_s: float = LINE_EVERY_S) -> None:
        self._console = console
        self._every_s = every_s
        self._tasks: dict[int, _Task] = {}
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tasks.clear()

    def start(self, description: str, total: int | None) -> int:
        """Remember a task."""
        now = time.monotonic()
        self._next += 1
        self._tasks[self._next] = _Task(description, total, now, now)
        return self._next

    def advance(self, handle: int, steps: int = 1) -> None:
        """Count steps, and print a line when it is time for one."""
        task, now = self._tasks[handle], time.monotonic()
        task.done += steps
        if now - task.told >= self._every_s:
            task.told = now
            self.note(_line(task, now))

    def stop(self, handle: int) -> None:
        """Print how long a long task took."""
        task = self._tasks.pop(handle, None)
        if task is None:
            # A loop that an error broke off may end after the display did.
            return
        seconds = time.monotonic() - task.begun
        if seconds >= WORTH_TELLING_S:
            self.note(f"{task.description}: {seconds:.0f} s")

    def note(self, message: str) -> None:
        """Print a line."""
        self._console.print(Text(message), soft_wrap=True)


def _line(task: _Task, now: float) -> str:
    if task.total is None:
        return f"{task.description}: {task.done} done"
    left = (now - task.begun) / task.done * max(0, task.total - task.done)
    return f"{task.description}: {task.done} of {task.total}, about {left:.0f} s left"


def terminal_reporter() -> BarReporter | LineReporter:
    """The reporter that fits stderr."""
    console = Console(stderr=True)
    return BarReporter(console) if console.is_terminal else LineReporter(console)
