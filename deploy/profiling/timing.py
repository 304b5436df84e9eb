"""Times of an engine's kernels and of the engine as a whole, taken in turns in a process of its own."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.engine import CallTimes, ExecutedCall
from deploy.engines import read_spec
from deploy.engines.exported_graph import ExportedGraph
from deploy.kernels import kernels_of
from deploy.latency.foreign_load import CpuReading
from deploy.latency.policies import LoadGate, WarmUp
from deploy.latency.protocol import (
    InfoCommand,
    InfoReply,
    LoadCommand,
    LoadReply,
    ProfileCommand,
    ProfileReply,
    RunCommand,
    RunReply,
    WarmUpCommand,
    WarmUpReply,
)
from deploy.latency.statistics import median
from deploy.latency.worker_process import WorkerProcess
from hw_profiles.kernel import Kernel

REPLICAS = 4
"""How often a network is loaded anew for its kernels: where its memory comes to lie moves their times."""

BLOCKS = 3
_WARM_UP = WarmUp(min_runs=3, min_seconds=0.2, max_seconds=3.0, tolerance=0.02)
_WARM_UP_RUNS = 3
_RUNS = (2, 24)
_WHOLE_RUNS = (4, 200)
_SLOW_MS = 150.0
"""From here on an inference is so long that half the replicas, one inference a block and one to warm up will do."""


@dataclass(frozen=True)
class EngineTimes:
    """`blocks_ms`: for each kernel the mean ms of each block of inferences, timed by the runtime's profiler.

    `whole_ms`: one value for each inference without the profiler. `runs`: profiled inferences.
    """

    kernels: tuple[Kernel, ...]
    blocks_ms: tuple[tuple[float, ...], ...]
    whole_ms: tuple[float, ...]
    runs: int
    peak_rss_bytes: int | None
    noisy: bool

    @property
    def kernel_ms(self) -> tuple[float, ...]:
        """Median over the blocks of each kernel."""
        return tuple(median(blocks) for blocks in self.blocks_ms)

    @property
    def kernels_share(self) -> float:
        """Sum of the kernels' medians over the median of whole inferences."""
        return sum(self.kernel_ms) / median(self.whole_ms)


def profile_engine(
    folder: Path, input_shape: tuple[int, int, int, int], *, threads: int = 1, seconds: float = 2.0, seed: int = 0
) -> EngineTimes:
    """Profile the engine in `folder` on uniform noise of `input_shape` for about `seconds`, longer if one run is long.

    Raises DeviceError for a process that dies, UsageError for a runtime that tells no time per node.
    """
    with tempfile.TemporaryDirectory(prefix="bitwright-profile-") as temporary:
        source = Path(temporary) / "input.npy"
        np.save(source, np.random.default_rng(seed).random(input_shape, dtype=np.float32))
        with WorkerProcess(folder.name, log=Path(temporary) / "worker.log", threads=threads) as worker:
            worker.ask(LoadCommand(folder=folder.resolve(), input_file=source, threads=threads), LoadReply)
            warm = worker.ask(WarmUpCommand(policy=_WARM_UP), WarmUpReply)
            run_ms = median(warm.wall_ns[len(warm.wall_ns) // 2 :]) / 1e6
            memory = worker.ask(InfoCommand(), InfoReply).peak_rss_bytes
            slow = run_ms > _SLOW_MS
            replicas = REPLICAS // 2 if slow else REPLICAS
            turn_ms = seconds * 1e3 / (2 * replicas)
            runs = 1 if slow else int(np.clip(round(turn_ms / BLOCKS / run_ms), *_RUNS))
            whole_runs = int(np.clip(round(turn_ms / run_ms), *_WHOLE_RUNS))
            profile = ProfileCommand(warm_up=1 if slow else _WARM_UP_RUNS, runs=runs, blocks=BLOCKS)
            before = CpuReading.take([worker.pid])
            whole: list[float] = []
            parts: list[CallTimes] = []
            for _ in range(replicas):
                reply = worker.ask(RunCommand(count=whole_runs, settle=1), RunReply)
                whole += [ns / 1e6 for ns in reply.wall_ns]
                parts.append(worker.ask(profile, ProfileReply).times)
            foreign = before.foreign_cores_until(CpuReading.take([worker.pid]))
    calls, blocks_ms = _together(parts)
    return EngineTimes(
        kernels=kernels_of(calls, ExportedGraph.read(folder / read_spec(folder).artefact)),
        blocks_ms=blocks_ms,
        whole_ms=tuple(whole),
        runs=replicas * BLOCKS * runs,
        peak_rss_bytes=memory,
        noisy=foreign > LoadGate().max_foreign_cores,
    )


def _together(parts: list[CallTimes]) -> tuple[tuple[ExecutedCall, ...], tuple[tuple[float, ...], ...]]:
    """The calls that every replica tells of, with their times in all blocks of all replicas.

    A call of less than a microsecond may be told of by some replicas only. Names do not tell which call is which: a
    runtime makes some of them up anew each time it compiles.
    """
    blocks: dict[tuple[ExecutedCall, int], list[float]] = {}
    for part in parts:
        for call, times in zip(_numbered(part.calls), zip(*part.blocks_ms, strict=True), strict=True):
            blocks.setdefault(call, []).extend(times)
    complete = sum(len(part.blocks_ms) for part in parts)
    kept = [
        (call, tuple(blocks[key]))
        for call, key in zip(parts[0].calls, _numbered(parts[0].calls), strict=True)
        if len(blocks[key]) == complete
    ]
    return tuple(call for call, _ in kept), tuple(times for _, times in kept)


def _numbered(calls: Sequence[ExecutedCall]) -> list[tuple[ExecutedCall, int]]:
    """Each call without its name, and how many equal ones ran before it."""
    seen: Counter[ExecutedCall] = Counter()
    found = []
    for call in calls:
        nameless = call.model_copy(update={"name": ""})
        found.append((nameless, seen[nameless]))
        seen[nameless] += 1
    return found


def profile_kernels(
    folder: Path, input_shape: tuple[int, int, int, int], *, threads: int = 1, seconds: float = 2.0
) -> list[tuple[Kernel, tuple[float, ...]]]:
    """Each kernel of an engine with its ms in each block of inferences, in the order of execution."""
    times = profile_engine(folder, input_shape, threads=threads, seconds=seconds)
    return list(zip(times.kernels, times.blocks_ms, strict=True))
