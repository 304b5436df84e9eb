"""The process in which one engine is timed: `python -m deploy.latency.worker --reply-fd N [--affinity 0,1]`.

Commands arrive as JSON lines on stdin; replies leave on a file descriptor of their own, so that whatever a runtime
prints cannot corrupt them. The end of stdin ends the process: a harness that dies leaves no worker behind.
An exception of the engine ends the process too, with its traceback on stderr.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from bitwright.foundation.errors import BitwrightError, UsageError, VerificationError
from deploy.engine import Engine
from deploy.latency.protocol import (
    COMMANDS,
    Command,
    ExitCommand,
    ExitReply,
    FailureReply,
    InfoReply,
    LoadCommand,
    LoadReply,
    ProfileCommand,
    ProfileReply,
    Reply,
    RunCommand,
    RunReply,
    WarmUpCommand,
    WarmUpReply,
)
from deploy.latency.steadiness import WarmUp, is_steady

_GROWTH = 1.25


def process_memory(field: str) -> int | None:
    """Bytes of `VmHWM` (peak) or `VmRSS` (now) of this process; None outside Linux.

    getrusage would not do: on Linux its peak is inherited from the parent across fork and exec.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def load(command: LoadCommand) -> tuple[Engine, float, float]:
    """Load the engine; returns it with the milliseconds of the loader's import and of the load itself."""
    module_name, _, function_name = command.loader.partition(":")
    start = time.perf_counter_ns()
    try:
        loader = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"engine loader {command.loader!r} cannot be imported: {error}") from error
    imported = time.perf_counter_ns()
    engine = loader(command.folder, command.threads)
    loaded = time.perf_counter_ns()
    if not isinstance(engine, Engine):
        raise UsageError(f"engine loader {command.loader!r} returned {type(engine).__name__}, not an Engine")
    return engine, (imported - start) / 1e6, (loaded - imported) / 1e6


class Session:
    """One loaded engine with its input."""

    def __init__(self, engine: Engine, x: np.ndarray) -> None:
        self._engine = engine
        self._x = x
        self._output_shape: tuple[int, ...] | None = None

    def run(self, count: int, settle: int = 0) -> RunReply:
        """Time each of `count` runs, the copy of the output included and its release excluded."""
        for _ in range(settle):
            self._engine.run(self._x)
        wall: list[int] = []
        cpu: list[int] = []
        gc.disable()
        try:
            for _ in range(count):
                cpu_start = time.process_time_ns()
                start = time.perf_counter_ns()
                output = self._engine.run(self._x)
                end = time.perf_counter_ns()
                cpu.append(time.process_time_ns() - cpu_start)
                wall.append(end - start)
                self._output_shape = output.shape
                del output
        finally:
            gc.enable()
        return RunReply(wall_ns=tuple(wall), cpu_ns=tuple(cpu))

    def warm_up(self, policy: WarmUp) -> WarmUpReply:
        """Run under `policy`; the check costs time, so it is made each time the samples have grown by a quarter."""
        wall: list[int] = []
        started = time.perf_counter()
        next_check = policy.min_runs
        while True:
            wall += self.run(1).wall_ns
            elapsed = time.perf_counter() - started
            if len(wall) >= next_check and elapsed >= policy.min_seconds:
                if is_steady(wall, policy.tolerance):
                    return WarmUpReply(wall_ns=tuple(wall), steady=True)
                next_check = max(len(wall) + 1, int(len(wall) * _GROWTH))
            if elapsed >= policy.max_seconds and len(wall) >= policy.min_runs:
                return WarmUpReply(wall_ns=tuple(wall), steady=False)

    def profile(self, command: ProfileCommand) -> ProfileReply:
        """Time each call of the network on the input."""
        times = self._engine.time_calls(self._x, warm_up=command.warm_up, runs=command.runs, blocks=command.blocks)
        return ProfileReply(times=times)

    def info(self) -> InfoReply:
        """Facts about the engine and this process."""
        if self._output_shape is None:
            raise VerificationError("the engine has not run yet, so its output shape is not known")
        return InfoReply(
            spec=self._engine.spec,
            output_shape=self._output_shape,
            peak_rss_bytes=process_memory("VmHWM"),
            affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None,
            python_threads=threading.active_count(),
        )


def handle(command: Command, session: Session | None) -> tuple[Reply, Session | None]:
    """Carry out one command; returns the reply and the session that the next command works on."""
    if isinstance(command, ExitCommand):
        return ExitReply(), None
    if isinstance(command, LoadCommand):
        before = process_memory("VmRSS")
        engine, import_ms, load_ms = load(command)
        x = np.ascontiguousarray(np.load(command.input_file, allow_pickle=False))
        return LoadReply(import_ms=import_ms, load_ms=load_ms, rss_before_bytes=before), Session(engine, x)
    if session is None:
        raise UsageError(f"no engine is loaded; send 'load' before {command.command!r}")
    if isinstance(command, RunCommand):
        return session.run(command.count, command.settle), session
    if isinstance(command, WarmUpCommand):
        return session.warm_up(command.policy), session
    if isinstance(command, ProfileCommand):
        return session.profile(command), session
    return session.info(), session


def main() -> None:
    """Serve commands until 'exit' or the end of stdin."""
    parser = argparse.ArgumentParser(description="Time one engine; started by the latency harness.")
    parser.add_argument("--reply-fd", type=int, required=True)
    parser.add_argument("--affinity", default="")
    arguments = parser.parse_args()
    if arguments.affinity:
        os.sched_setaffinity(0, {int(core) for core in arguments.affinity.split(",")})
    os.set_inheritable(arguments.reply_fd, False)
    session: Session | None = None
    with os.fdopen(arguments.reply_fd, "w", encoding="utf-8") as replies:
        for line in sys.stdin:
            command = COMMANDS.validate_json(line)
            reply: Reply
            try:
                reply, session = handle(command, session)
            except BitwrightError as error:
                reply = FailureReply(message=str(error), exit_code=error.exit_code)
            replies.write(reply.model_dump_json() + "\n")
            replies.flush()
            if isinstance(command, ExitCommand):
                return


if __name__ == "__main__":
    main()
