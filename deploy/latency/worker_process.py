"""The harness's handle on one worker process: start, ask, and end it under every circumstance."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from bitwright.foundation.errors import BitwrightError, ConstraintError, DeviceError, UsageError, VerificationError
from deploy.latency.protocol import REPLIES, Command, ExitCommand, ExitReply, FailureReply, Reply

R = TypeVar("R", bound=Reply)

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
_GOODBYE_SECONDS = 5.0


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables that limit the thread pools of numerical libraries to `threads`."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))


class WorkerProcess:
    """A worker for the engine called `name`. Use as a context manager: leaving the block ends the process."""

    def __init__(
        self,
        name: str,
        *,
        log: Path,
        threads: int,
        affinity: Sequence[int] | None = None,
        timeout_seconds: float = 300.0,
    ) -> None:
        """Start the process; all that it prints goes to the file `log`. Raises DeviceError if it cannot start."""
        self.name = name
        self._log = log
        self._timeout = timeout_seconds
        self._buffer = b""
        arguments = [sys.executable, "-P", "-m", "deploy.latency.worker"]
        if affinity is not None:
            arguments += ["--affinity", ",".join(str(core) for core in affinity)]
        # The worker imports what the harness can import, wherever the harness was started from.
        search_path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        environment = os.environ | thread_environment(threads) | {"PYTHONPATH": search_path}
        self._replies, worker_end = os.pipe()
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [*arguments, "--reply-fd", str(worker_end)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=(worker_end,),
                    env=environment,
                    # Its own session: Ctrl-C reaches the harness alone, which then ends its workers in order.
                    start_new_session=True,
                )
        except OSError as error:
            os.close(self._replies)
            raise DeviceError(f"engine {name!r}: its worker process cannot start: {error}") from error
        finally:
            os.close(worker_end)

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._process.poll() is None:
                self.ask(ExitCommand(), ExitReply, timeout_seconds=_GOODBYE_SECONDS)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_GOODBYE_SECONDS)
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

    def ask(self, command: Command, expected: type[R], timeout_seconds: float | None = None) -> R:
        """Send `command` and wait for its reply.

        Raises DeviceError if the process was killed by a signal, ended, or stayed silent for `timeout_seconds`;
        VerificationError if the engine raised; the worker's own error where it reported one.
        """
        if self._process.stdin is None:
            raise DeviceError(f"engine {self.name!r}: its worker process has no input")
        try:
            self._process.stdin.write(command.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death(command) from None
        reply = REPLIES.validate_json(self._read_line(command, timeout_seconds or self._timeout))
        if isinstance(reply, FailureReply):
            raise _ERRORS.get(reply.exit_code, BitwrightError)(f"engine {self.name!r}: {reply.message}")
        if not isinstance(reply, expected):
            raise DeviceError(f"engine {self.name!r}: its worker answered {reply.reply!r} to {command.command!r}")
        return reply

    def _read_line(self, command: Command, timeout_seconds: float) -> bytes:
        deadline = time.monotonic() + timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.kill()
                    raise DeviceError(
                        f"engine {self.name!r}: no answer to {command.command!r} within {timeout_seconds:g} s, its "
                        f"worker was ended; {self._tail()}"
                    )
                received = os.read(self._replies, 1 << 16)
                if not received:
                    raise self._death(command)
                self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self, command: Command) -> BitwrightError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GOODBYE_SECONDS)
        code = self._process.poll()
        self.kill()
        where = f"engine {self.name!r}: during {command.command!r}"
        if code == 1:
            return VerificationError(f"{where} it raised; {self._tail()}")
        if code is not None and code < 0:
            return DeviceError(f"{where} its worker was killed by {signal.Signals(-code).name}; {self._tail()}")
        return DeviceError(f"{where} its worker ended with exit code {code}; {self._tail()}")

    def _tail(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
        return f"it last printed: {' | '.join(lines)[-_TAIL_CHARACTERS:]}" if lines else "it printed nothing"
