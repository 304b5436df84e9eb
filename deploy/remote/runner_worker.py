"""The process in which a runner times one engine: the worker of the harness with messages that are plain JSON.

Needs nothing but Python, numpy and the runtime.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bitwright.foundation.errors import BitwrightError, VerificationError
from bitwright.foundation.files import sha256_file
from deploy.latency.child_process import serve
from deploy.latency.timing import TimedNetwork, process_memory, usable_cores
from deploy.runtimes import FloatPrecision, Runtime

if TYPE_CHECKING:
    from deploy.engines.sessions import Session, TellsExecuted, TellsStages

Message = dict[str, Any]


class _Worker:
    """One engine, loaded by the first command."""

    def __init__(self) -> None:
        self._loaded: tuple[Session, TimedNetwork] | None = None
        self._x = np.empty(0, np.float32)

    @property
    def loaded(self) -> tuple[Session, TimedNetwork]:
        if self._loaded is None:
            raise VerificationError("no engine is loaded; send 'load' first")
        return self._loaded

    def load(self, command: Message) -> Message:
        """Load the engine, read the input and run it once."""
        before = process_memory("VmRSS")
        start = time.perf_counter_ns()
        from deploy.engines.sessions import OnGpu, open_session

        imported = time.perf_counter_ns()
        shape, runtime = command["input_shape"], Runtime(command["runtime"])
        session = open_session(
            Path(command["file"]),
            runtime=runtime,
            version=command["runtime_version"],
            threads=command["threads"],
            float_precision=FloatPrecision(command["float_precision"]),
            shape=None if shape is None else tuple(shape),
            gpu=OnGpu(command["compute_capability"], command["profile"], command["cuda_graph"]),
        )
        loaded = time.perf_counter_ns()
        self._x = np.ascontiguousarray(np.load(command["input"], allow_pickle=False))
        stages = cast("TellsStages", session).stages_ms if runtime.compiles else _on_processor
        network = TimedNetwork(session.run, self._x, stages)
        self._loaded = session, network
        first = network.time(1)
        return {
            "import_ms": (imported - start) / 1e6,
            "load_ms": (loaded - imported) / 1e6,
            "rss_before_load_bytes": before,
            "first_ns": first.wall_ns[0],
            "output_shape": list(network.output_shape or ()),
        }

    def warm_up(self, command: Message) -> Message:
        """Run until steady."""
        wall_ns, steady = self.loaded[1].warm_up(**command["policy"])
        return {"warm_ns": wall_ns, "steady": steady}

    def run(self, command: Message) -> Message:
        """Time one block."""
        runs = self.loaded[1].time(command["count"], command["settle"])
        return {"wall_ns": runs.wall_ns, "cpu_ns": runs.cpu_ns, "gpu_ms": runs.gpu_ms}

    def info(self, command: Message) -> Message:
        """Facts about this process, and how far the output is from the one where the engine was bundled."""
        # The peak is read first: comparing takes memory that the engine does not need.
        facts: Message = {"peak_rss_bytes": process_memory("VmHWM"), "affinity": usable_cores()}
        expected = np.load(command["output"], allow_pickle=False)
        return facts | {"output_difference": _difference(self.loaded[0].run(self._x), expected)}

    def executed(self, command: Message) -> Message:
        """Write what the runtime executes to a file; its hash. A bundle asks for it where the runtime tells it."""
        path = Path(command["file"])
        cast("TellsExecuted", self.loaded[0]).write_executed(path)
        return {"executed": sha256_file(path)}

    def exit(self, command: Message) -> Message:
        """The last answer."""
        del command
        return {}


def _on_processor() -> None:
    """A run there has no stages."""


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        raise VerificationError(f"the output has shape {list(found.shape)} here and {list(expected.shape)} there")
    if not np.isfinite(found).all():
        raise VerificationError("the output holds values that are not finite")
    return float(np.max(np.abs(found.astype(np.float64) - expected)))


def main(reply_fd: int) -> None:
    """Serve commands until 'exit' or the end of stdin."""
    worker = _Worker()
    commands = {"load": worker.load, "warm_up": worker.warm_up, "run": worker.run, "info": worker.info,
                "executed": worker.executed}  # fmt: skip

    def answer(line: str) -> tuple[str, bool]:
        command = json.loads(line)
        name = command["command"]
        try:
            reply = commands.get(name, worker.exit)(command)
        except BitwrightError as error:
            reply = {"failure": str(error), "exit_code": error.exit_code}
        return json.dumps(reply, allow_nan=False), name == "exit"

    serve(reply_fd, answer)
