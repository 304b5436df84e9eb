"""The process in which one engine is timed: `python -m deploy.latency.worker --reply-fd N [--affinity 0,1]`.

Commands arrive as JSON lines on stdin; replies leave on a file descriptor of their own, so that whatever a runtime
prints cannot corrupt them. The end of stdin ends the process: a harness that dies leaves no worker behind.
An exception of the engine ends the process too, with its traceback on stderr.
"""

from __future__ import annotations

import argparse
import importlib
import os
import threading
import time

import numpy as np

from bitwright.foundation.errors import BitwrightError, UsageError, VerificationError
from deploy.engine import Engine
from deploy.latency.child_process import serve
from deploy.latency.policies import WarmUp
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
from deploy.latency.timing import TimedNetwork, process_memory, usable_cores


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
        self._timed = TimedNetwork(engine.run, x, engine.gpu_stages_ms)

    def run(self, count: int, settle: int = 0) -> RunReply:
        """Time each of `count` runs; see `TimedNetwork.time`."""
        runs = self._timed.time(count, settle)
        return RunReply(wall_ns=runs.wall_ns, cpu_ns=runs.cpu_ns, gpu_ms=runs.gpu_ms)

    def warm_up(self, policy: WarmUp) -> WarmUpReply:
        """Run until steady under `policy`."""
        wall_ns, steady = self._timed.warm_up(
            min_runs=policy.min_runs,
            min_seconds=policy.min_seconds,
            max_seconds=policy.max_seconds,
            tolerance=policy.tolerance,
        )
        return WarmUpReply(wall_ns=wall_ns, steady=steady)

    def profile(self, command: ProfileCommand) -> ProfileReply:
        """Time each call of the network on the input."""
        times = self._engine.time_calls(self._x, warm_up=command.warm_up, runs=command.runs, blocks=command.blocks)
        return ProfileReply(times=times)

    def info(self) -> InfoReply:
        """Facts about the engine and this process."""
        if self._timed.output_shape is None:
            raise VerificationError("the engine has not run yet, so its output shape is not known")
        return InfoReply(
            spec=self._engine.spec,
            output_shape=self._timed.output_shape,
            peak_rss_bytes=process_memory("VmHWM"),
            affinity=usable_cores(),
            python_threads=threading.active_count(),
        )


def handle(command: Command, session: Session | None) -> tuple[Reply, Session | None]:
    """Carry out one command; returns the reply and the session that the next command works on."""
    if isinstance(command, ExitCommand):
        return ExitReply(), None
    if isinstance(command, LoadCommand):
        before = process_memory("VmRSS")
        engine, import_ms, load_ms = load(command)
        engine.spec.runtime.require_timed()
        if command.cuda_graph:
            engine.use_cuda_graph()
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
    session: Session | None = None

    def answer(line: str) -> tuple[str, bool]:
        nonlocal session
        command = COMMANDS.validate_json(line)
        reply: Reply
        try:
            reply, session = handle(command, session)
        except BitwrightError as error:
            reply = FailureReply(message=str(error), exit_code=error.exit_code)
        return reply.model_dump_json(), isinstance(command, ExitCommand)

    serve(arguments.reply_fd, answer)


if __name__ == "__main__":
    main()
