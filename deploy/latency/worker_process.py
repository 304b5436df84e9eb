"""The harness's handle on one worker process, in the messages of `protocol`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from bitwright.foundation.errors import DeviceError
from deploy.latency.child_process import GOODBYE_SECONDS, ChildProcess, thread_environment
from deploy.latency.protocol import REPLIES, Command, ExitCommand, ExitReply, FailureReply, Reply

R = TypeVar("R", bound=Reply)


class WorkerProcess(ChildProcess):
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
        arguments = [sys.executable, "-P", "-m", "deploy.latency.worker"]
        if affinity is not None:
            arguments += ["--affinity", ",".join(str(core) for core in affinity)]
        # The worker imports what the harness can import, wherever the harness was started from.
        search_path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        environment = thread_environment(threads) | {"PYTHONPATH": search_path}
        super().__init__(name, arguments, log=log, environment=environment, timeout_seconds=timeout_seconds)

    def say_goodbye(self) -> None:
        """Ask the worker to end."""
        self.ask(ExitCommand(), ExitReply, timeout_seconds=GOODBYE_SECONDS)

    def ask(self, command: Command, expected: type[R], timeout_seconds: float | None = None) -> R:
        """Send `command` and wait for its reply.

        Raises DeviceError if the process was killed by a signal, ended, or stayed silent for `timeout_seconds`;
        VerificationError if the engine raised; the worker's own error where it reported one.
        """
        line = self.exchange(command.command, command.model_dump_json(), timeout_seconds)
        reply = REPLIES.validate_json(line)
        if isinstance(reply, FailureReply):
            raise self.failure(reply.message, reply.exit_code)
        if not isinstance(reply, expected):
            raise DeviceError(f"engine {self.name!r}: its worker answered {reply.reply!r} to {command.command!r}")
        return reply
