"""The latency harness: engines in processes of their own, warmed up, then timed in randomly interleaved blocks."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import track
from deploy.environment import Environment, clock_mhz
from deploy.latency.comparison import ComparisonResult
from deploy.latency.foreign_load import CpuReading, LoadGate, wait_for_quiet
from deploy.latency.measurement import Measurement, Noise, count_starved, is_starved
from deploy.latency.protocol import (
    DEFAULT_LOADER,
    InfoCommand,
    InfoReply,
    LoadCommand,
    LoadReply,
    RunCommand,
    RunReply,
    WarmUpCommand,
    WarmUpReply,
)
from deploy.latency.statistics import median, needed_samples
from deploy.latency.steadiness import WarmUp
from deploy.latency.worker_process import WorkerProcess

DEFAULT_WARM_UP = WarmUp()
DEFAULT_GATE = LoadGate()
_SETTLE_RUNS = 1
_MIN_ROUNDS = 10
_BLOCK_RUNS = (3, 1000)
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Candidate:
    """An engine to measure: the folder of its `engine.json`, and the function `module:name` that loads it."""

    name: str
    folder: Path
    loader: str = DEFAULT_LOADER
    build_ms: float | None = None


@dataclass
class _Subject:
    """A candidate with its live worker and what it has given so far (nanoseconds)."""

    candidate: Candidate
    worker: WorkerProcess
    loaded: LoadReply
    first_ns: int
    warm: WarmUpReply | None = None
    block_runs: int = 1
    wall_ns: list[int] = field(default_factory=list)
    cpu_ns: list[int] = field(default_factory=list)
    block_sizes: list[int] = field(default_factory=list)

    def warm_up(self, policy: WarmUp, block_seconds: float, timeout_seconds: float) -> None:
        self.warm = self.worker.ask(WarmUpCommand(policy=policy), WarmUpReply, timeout_seconds + policy.max_seconds)
        later = self.warm.wall_ns[len(self.warm.wall_ns) // 2 :]
        self.block_runs = int(np.clip(round(block_seconds * 1e9 / median(later)), *_BLOCK_RUNS))

    def run_block(self) -> None:
        reply = self.worker.ask(RunCommand(count=self.block_runs, settle=_SETTLE_RUNS), RunReply)
        self.wall_ns += reply.wall_ns
        self.cpu_ns += reply.cpu_ns
        self.block_sizes.append(len(reply.wall_ns))

    def done(self, min_seconds: float, min_samples: int) -> bool:
        return len(self.wall_ns) >= min_samples and sum(self.wall_ns) >= min_seconds * 1e9


def measure(
    candidates: Sequence[Candidate],
    *,
    input_shape: Sequence[int] | None = None,
    input_file: Path | None = None,
    threads: int = 1,
    min_seconds: float = 3.0,
    min_samples: int | None = None,
    max_seconds: float = 120.0,
    seed: int = 0,
    percentiles: Sequence[float] = (50.0, 90.0, 99.0),
    warm_up: WarmUp = DEFAULT_WARM_UP,
    gate: LoadGate = DEFAULT_GATE,
    affinity: Sequence[int] | None = None,
    block_seconds: float = 0.25,
    timeout_seconds: float = 300.0,
) -> ComparisonResult:
    """Measure `candidates` side by side on one input and return their distributions.

    The input is `input_file` (.npy, float32 [N, C, H, W]) or uniform noise in [0, 1) of `input_shape`. Each round runs
    one block of about `block_seconds` of every engine, in an order drawn anew from `seed`. Rounds go on until every
    engine has `min_seconds` of timed runs and `min_samples` samples (None: what the highest percentile needs), or the
    rounds have lasted `max_seconds`. `timeout_seconds` limits each answer of a worker.

    Raises UsageError for a request that makes no sense, DeviceError for a worker that dies or hangs, VerificationError
    for an engine that raises. No worker survives this call, however it ends.
    """
    wanted = min_samples if min_samples is not None else max((needed_samples(p) for p in percentiles), default=1)
    _check(candidates, threads, min_seconds, max_seconds, affinity)
    environment = Environment.record()
    with tempfile.TemporaryDirectory(prefix="bitwright-latency-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        source, shape = _prepare_input(input_shape, input_file, seed, folder)
        foreign_before, waited = wait_for_quiet(gate)
        subjects: list[_Subject] = []
        for index, candidate in enumerate(track(candidates, "loading and warming up engines")):
            worker = stack.enter_context(
                WorkerProcess(
                    candidate.name,
                    log=folder / f"{index}.log",
                    threads=threads,
                    affinity=affinity,
                    timeout_seconds=timeout_seconds,
                )
            )
            subject = _load(candidate, worker, source, threads)
            subject.warm_up(warm_up, block_seconds, timeout_seconds)
            subjects.append(subject)
        pids = [subject.worker.pid for subject in subjects]
        before = CpuReading.take(pids)
        rounds = _rounds(subjects, seed, min_seconds, wanted, max_seconds)
        total = _expected_rounds(subjects, min_seconds, wanted)
        order = tuple(track(rounds, "measuring latency, interleaved", total))
        foreign_during = before.foreign_cores_until(CpuReading.take(pids))
        noise = [Noise.FOREIGN_LOAD_BEFORE] if foreign_before > gate.max_foreign_cores else []
        noise += [Noise.FOREIGN_LOAD_DURING] if foreign_during > gate.max_foreign_cores else []
        measurements = tuple(
            _finish(subject, shape, threads, tuple(percentiles), tuple(noise), environment.fingerprint)
            for subject in subjects
        )
        return ComparisonResult(
            measurements=measurements,
            order=order,
            seed=seed,
            min_seconds=min_seconds,
            min_samples=wanted,
            max_seconds=max_seconds,
            settle_runs=_SETTLE_RUNS,
            target_reached=all(subject.done(min_seconds, wanted) for subject in subjects),
            waited_seconds=waited,
            foreign_cores_before=foreign_before,
            foreign_cores_during=foreign_during,
            clock_mhz_after=clock_mhz(),
            environment=environment,
        )


def _check(
    candidates: Sequence[Candidate],
    threads: int,
    min_seconds: float,
    max_seconds: float,
    affinity: Sequence[int] | None,
) -> None:
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"a measurement needs engines with names that differ, got {names}")
    if threads < 1:
        raise UsageError(f"threads must be 1 or more, got {threads}")
    if not 0.0 <= min_seconds <= max_seconds:
        raise UsageError(f"min_seconds ({min_seconds}) must lie between 0 and max_seconds ({max_seconds})")
    if affinity is not None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        if not affinity or not set(affinity) <= allowed:
            raise UsageError(f"affinity {list(affinity)} is not among the cores usable here: {sorted(allowed)}")


def _prepare_input(
    shape: Sequence[int] | None, file: Path | None, seed: int, folder: Path
) -> tuple[Path, tuple[int, ...]]:
    """The .npy file that every worker reads, and its shape."""
    if (shape is None) == (file is None):
        raise UsageError("give either an input shape or an input file")
    if file is not None:
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"input file {file} cannot be read as .npy: {error}") from error
        if array.ndim != 4 or array.dtype != np.float32:
            raise UsageError(f"input file {file} must hold float32 [N, C, H, W], got {array.dtype} {array.shape}")
        return file.resolve(), array.shape
    dimensions = tuple(shape or ())
    if len(dimensions) != 4 or min(dimensions) < 1:
        raise UsageError(f"input shape must be four positive numbers N, C, H, W, got {dimensions}")
    path = folder / "input.npy"
    np.save(path, np.random.default_rng(seed).random(dimensions, dtype=np.float32))
    return path, dimensions


def _load(candidate: Candidate, worker: WorkerProcess, source: Path, threads: int) -> _Subject:
    command = LoadCommand(
        loader=candidate.loader, folder=candidate.folder.resolve(), input_file=source, threads=threads
    )
    loaded = worker.ask(command, LoadReply)
    first = worker.ask(RunCommand(count=1), RunReply)
    return _Subject(candidate, worker, loaded, first.wall_ns[0])


def _rounds(
    subjects: Sequence[_Subject], seed: int, min_seconds: float, min_samples: int, max_seconds: float
) -> Iterator[tuple[str, ...]]:
    """Run rounds until all subjects are done or the time is up; yields the order of each round."""
    generator = np.random.default_rng(seed)
    deadline = time.monotonic() + max_seconds
    rounds = 0
    while rounds < _MIN_ROUNDS or not all(subject.done(min_seconds, min_samples) for subject in subjects):
        order = [subjects[index] for index in generator.permutation(len(subjects))]
        for subject in order:
            subject.run_block()
        rounds += 1
        yield tuple(subject.candidate.name for subject in order)
        if time.monotonic() >= deadline:
            return


def _expected_rounds(subjects: Sequence[_Subject], min_seconds: float, min_samples: int) -> int:
    """How many rounds it will take if the runs stay as long as at the end of the warm-up."""
    rounds = [_MIN_ROUNDS]
    for subject in subjects:
        warm_ns = subject.warm.wall_ns if subject.warm is not None else (subject.first_ns,)
        seconds = subject.block_runs * median(warm_ns[len(warm_ns) // 2 :]) / 1e9
        rounds += [-(-min_samples // subject.block_runs), int(np.ceil(min_seconds / seconds))]
    return max(rounds)


def _finish(
    subject: _Subject,
    shape: tuple[int, ...],
    threads: int,
    percentiles: tuple[float, ...],
    noise: tuple[Noise, ...],
    fingerprint: str,
) -> Measurement:
    info = subject.worker.ask(InfoCommand(), InfoReply)
    samples = tuple(ns / _NS_PER_MS for ns in subject.wall_ns)
    cpu = tuple(ns / _NS_PER_MS for ns in subject.cpu_ns)
    starved = count_starved(samples, cpu, threads)
    return Measurement(
        name=subject.candidate.name,
        spec=info.spec,
        input_shape=shape,
        output_shape=info.output_shape,
        threads=threads,
        affinity=info.affinity,
        percentiles=percentiles,
        samples_ms=samples,
        cpu_ms=cpu,
        block_sizes=tuple(subject.block_sizes),
        warm_up_ms=tuple(ns / _NS_PER_MS for ns in subject.warm.wall_ns) if subject.warm is not None else (),
        build_ms=subject.candidate.build_ms,
        import_ms=subject.loaded.import_ms,
        load_ms=subject.loaded.load_ms,
        first_ms=subject.first_ns / _NS_PER_MS,
        rss_before_load_bytes=subject.loaded.rss_before_bytes,
        peak_rss_bytes=info.peak_rss_bytes,
        starved_samples=starved,
        noise=(*noise, Noise.STARVED) if is_starved(starved, len(samples)) else noise,
        steady=subject.warm is not None and subject.warm.steady,
        environment_fingerprint=fingerprint,
    )
