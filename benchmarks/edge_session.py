"""Engines of several environments timed side by side, by the rounds, the worker and the statistics of the harness.

The harness itself starts its workers in its own environment, and its measurements are of bitwright's runtimes.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmarks import edge_worker
from benchmarks.session import Timing
from bitwright.foundation.progress import track
from deploy.environment import Environment, Heat
from deploy.latency import Clock, LoadGate, Noise, Speedup, WarmUp
from deploy.latency.foreign_load import CpuReading, wait_for_quiet
from deploy.latency.measurement import count_starved, is_starved, noise_of
from deploy.latency.rounds import SETTLE_RUNS, Samples, run_rounds
from deploy.latency.statistics import needed_samples, paired_ratio
from deploy.remote.bundle import runner_sources
from deploy.remote.runner_session import EngineWorker

_BLOCK_SECONDS = 0.25
_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class EdgeEngine:
    """An engine and where it runs. `runtime`: the loader in `edge_worker`; `file`: what that loads.

    `python`: of the environment that has the runtime, None for this one.
    """

    name: str
    runtime: str
    file: Path
    python: Path | None = None

    def worker(self, folder: Path, threads: int) -> EngineWorker:
        """Its process, not yet started on anything; what it prints and what it imports are kept in `folder`."""
        log = folder / f"{len(list(folder.glob('*.log')))}.log"
        search = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        if self.python is not None:
            search = str(_runner_archive(folder))
        command = [self.python or sys.executable, "-P", edge_worker.__file__]
        protocol = {"threads": threads, "timeout_seconds": _TIMEOUT_SECONDS}
        return EngineWorker(self.name, command, log, protocol, {"PYTHONPATH": search})

    def load(self, worker: EngineWorker, file: Path, source: Path, threads: int) -> dict[str, Any]:
        """Load `file` and the input (.npy, [1, C, H, W] float32) in its process; ms of the load and the first run."""
        return worker.ask("load", runtime=self.runtime, file=str(file), input=str(source), threads=threads)


class EdgeTimes(BaseModel):
    """What one engine gave: a value each run, in the order taken, in blocks of `block_sizes`, one block a round."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    samples_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]
    block_sizes: tuple[int, ...]
    warm_up_ms: tuple[float, ...]
    steady: bool
    load_ms: float
    first_ms: float
    peak_rss_bytes: int | None
    starved_samples: int

    @property
    def median_ms(self) -> float:
        """Of the wall times."""
        return statistics.median(self.samples_ms)

    @property
    def cpu_median_ms(self) -> float:
        """Of the CPU times of the process."""
        return statistics.median(self.cpu_ms)

    def blocks(self) -> list[tuple[float, ...]]:
        """The wall times in ms, block by block."""
        ends = accumulate(self.block_sizes, initial=0)
        return [self.samples_ms[start:end] for start, end in pairwise(ends)]


class EdgeSession(BaseModel):
    """One interleaved session. `files`: SHA-256 by engine; `order`: of the engines in each round."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engines: tuple[EdgeTimes, ...]
    files: dict[str, str]
    order: tuple[tuple[str, ...], ...]
    seed: int
    threads: int
    min_seconds: float
    input_shape: tuple[int, int, int, int]
    waited_seconds: float
    foreign_cores_before: float
    foreign_cores_during: float
    noise: tuple[Noise, ...]
    environment: Environment

    def times(self, name: str) -> EdgeTimes:
        """Of one engine."""
        return next(engine for engine in self.engines if engine.name == name)

    def ratio(self, name: str, baseline: str, clock: Clock = Clock.WALL) -> float:
        """Median of the baseline over the median of an engine: above 1 the engine is faster."""
        ours, theirs = self.times(name), self.times(baseline)
        return theirs.median_ms / ours.median_ms if clock is Clock.WALL else theirs.cpu_median_ms / ours.cpu_median_ms

    def speedup(self, name: str, baseline: str) -> Speedup:
        """The same of wall times, paired by round, with its 95 % interval."""
        paired = paired_ratio(self.times(baseline).blocks(), self.times(name).blocks(), seed=self.seed)
        return Speedup.from_ratio(paired, Clock.WALL)

    def is_of(self, files: dict[str, str], timing: Timing, shape: tuple[int, ...]) -> bool:
        """Whether it timed exactly these files in this way."""
        return (self.files, self.threads, self.min_seconds, self.seed, self.input_shape) == (
            files, timing.threads, timing.seconds, timing.seed, shape,
        )  # fmt: skip


def measure(engines: Sequence[EdgeEngine], files: dict[str, str], source: Path, timing: Timing) -> EdgeSession:
    """Time all engines on one input (.npy, [1, C, H, W] float32), each in a process of its own, in random order."""
    gate = LoadGate.for_session(timing.seconds)
    warm_up = WarmUp()
    target: dict[str, Any] = {"min_seconds": timing.seconds, "min_samples": needed_samples(90.0)}
    environment = Environment.record()
    foreign_before, waited = wait_for_quiet(gate.max_foreign_cores, gate.wait_seconds, gate.window_seconds)
    with tempfile.TemporaryDirectory(prefix="bitwright-edge-") as temporary, ExitStack() as stack:
        workers, samples, facts = {}, {}, {}
        for engine in track(engines, "loading and warming up engines"):
            worker = stack.enter_context(engine.worker(Path(temporary), timing.threads))
            told = engine.load(worker, engine.file, source, timing.threads)
            told |= worker.ask("warm_up", _TIMEOUT_SECONDS + warm_up.max_seconds, policy=warm_up.model_dump())
            workers[engine.name], facts[engine.name] = worker, told
            samples[engine.name] = Samples(engine.name)
            samples[engine.name].size_blocks(told["warm_ns"], _BLOCK_SECONDS)

        def run_block(arm: Samples) -> None:
            arm.add(**workers[arm.name].ask("run", count=arm.block_runs, settle=SETTLE_RUNS))

        pids = [worker.pid for worker in workers.values()]
        heat, before = Heat.record(), CpuReading.take(pids)
        rounds = run_rounds(
            [*samples.values()],
            run_block,
            seed=timing.seed,
            max_seconds=120.0 + 4.0 * timing.seconds * len(engines),
            **target,
        )
        total = max(arm.expected_rounds(facts[name]["warm_ns"], **target) for name, arm in samples.items())
        order = tuple(track(rounds, "measuring latency, interleaved", total))
        foreign = before.foreign_cores_until(CpuReading.take(pids))
        noise = noise_of(foreign_before, foreign, gate.max_foreign_cores, (heat, Heat.record()), gpus=False)
        told = {name: facts[name] | worker.ask("info") for name, worker in workers.items()}
    times = tuple(_times(arm, told[name], timing.threads) for name, arm in samples.items())
    if any(is_starved(one.starved_samples, len(one.samples_ms)) for one in times):
        noise = (*noise, Noise.STARVED)
    n, c, h, w = np.load(source, mmap_mode="r").shape
    return EdgeSession(
        engines=times, files=files, order=order, seed=timing.seed, threads=timing.threads, min_seconds=timing.seconds,
        input_shape=(n, c, h, w), waited_seconds=waited, foreign_cores_before=foreign_before,
        foreign_cores_during=foreign, noise=noise, environment=environment,
    )  # fmt: skip


def _times(samples: Samples, facts: dict[str, Any], threads: int) -> EdgeTimes:
    wall, cpu = (tuple(ns / 1e6 for ns in taken) for taken in (samples.wall_ns, samples.cpu_ns))
    return EdgeTimes(
        name=samples.name,
        samples_ms=wall,
        cpu_ms=cpu,
        block_sizes=tuple(samples.block_sizes),
        warm_up_ms=tuple(ns / 1e6 for ns in facts["warm_ns"]),
        steady=facts["steady"],
        load_ms=facts["load_ms"],
        first_ms=facts["first_ms"],
        peak_rss_bytes=facts["peak_rss_bytes"],
        starved_samples=count_starved(wall, cpu, threads),
    )


def _runner_archive(folder: Path) -> Path:
    """The modules that the worker imports beside its runtime, in one file that Python can import from."""
    path = folder / "runner.zip"
    if not path.is_file():
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in runner_sources().items():
                archive.writestr(name, content)
    return path
