"""ChildProcess: a process that answers line by line. It is started, asked, and ended under every circumstance."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from bitwright.foundation.errors import BitwrightError, ConstraintError, DeviceError, UsageError, VerificationError

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_ERRORS: dict[int, type[BitwrightError]] = {
    error.exit_code: error for error in (BitwrightError, UsageError, ConstraintError, VerificationError, DeviceError)
}
_TAIL_LINES = 3
_TAIL_CHARACTERS = 400
GOODBYE_SECONDS = 5.0


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables that limit the thread pools of numerical libraries to `threads`."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))


class ChildProcess:
    """A process for the engine called `name`. Use as a context manager: leaving the block ends it.

    It reads lines on stdin and answers on a descriptor of its own (`--reply-fd N`), so that whatever a runtime prints
    cannot corrupt the answers; what it prints goes to the file `log`.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str],
        timeout_seconds: float,
    ) -> None:
        """Start the process; `environment` is added to that of this one. Raises DeviceError if it cannot start."""
        self.name = name
        self._log = log
        self._timeout = timeout_seconds
        self._buffer = b""
        self._replies, child_end = os.pipe()
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [*arguments, "--reply-fd", str(child_end)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=(child_end,),
                    env=os.environ | environment,
                    # Its own session: Ctrl-C reaches the harness alone, which then ends its workers in order.
                    start_new_session=True,
                )
        except OSError as error:
            os.close(self._replies)
            raise DeviceError(f"engine {name!r}: its worker process cannot start: {error}") from error
        finally:
            os.close(child_end)

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    def say_goodbye(self) -> None:
        """What is said to a process that still lives when the block is left without an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._process.poll() is None:
                self.say_goodbye()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(GOODBYE_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process and whatever it started, at once; harmless if it has ended."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        if self._replies >= 0:
            os.close(self._replies)
            self._replies = -1

    def exchange(self, label: str, line: str, timeout_seconds: float | None = None) -> bytes:
        """Send one line and wait for the line that answers it; `label` says in messages what was asked.

        Raises DeviceError if the process was killed by a signal, ended, or stayed silent for `timeout_seconds`;
        VerificationError if it raised.
        """
        if self._process.stdin is None:
            raise DeviceError(f"engine {self.name!r}: its worker process has no input")
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death(label) from None
        return self._read_line(label, timeout_seconds or self._timeout)

    def failure(self, message: str, exit_code: int) -> BitwrightError:
        """The error that the process reported, as the class whose exit code it gave."""
        return _ERRORS.get(exit_code, BitwrightError)(f"engine {self.name!r}: {message}")

    def _read_line(self, label: str, timeout_seconds: float) -> bytes:
        deadline = time.monotonic() + timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.kill()
                    raise DeviceError(
                        f"engine {self.name!r}: no answer to {label!r} within {timeout_seconds:g} s, its "
                        f"worker was ended; {self._tail()}"
                    )
                received = os.read(self._replies, 1 << 16)
                if not received:
                    raise self._death(label)
                self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self, label: str) -> BitwrightError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GOODBYE_SECONDS)
        code = self._process.poll()
        self.kill()
        where = f"engine {self.name!r}: during {label!r}"
        if code == 1:
            return VerificationError(f"{where} it raised; {self._tail()}")
        if code is not None and code < 0:
            return DeviceError(f"{where} its worker was killed by {signal.Signals(-code).name}; {self._tail()}")
        return DeviceError(f"{where} its worker ended with exit code {code}; {self._tail()}")

    def _tail(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
        return f"it last printed: {' | '.join(lines)[-_TAIL_CHARACTERS:]}" if lines else "it printed nothing"


def serve(reply_fd: int, answer: Callable[[str], tuple[str, bool]]) -> None:
    """The other side: answer each line of stdin until `answer` says that it was the last, or stdin ends.

    A harness that dies so leaves no worker behind.
    """
    os.set_inheritable(reply_fd, False)
    with os.fdopen(reply_fd, "w", encoding="utf-8") as replies:
        for line in sys.stdin:
            reply, last = answer(line)
            replies.write(reply + "\n")
            replies.flush()
            if last:
                return
