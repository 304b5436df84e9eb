"""The latency harness: engines in processes of their own, warmed up, then timed in randomly interleaved blocks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import track
from deploy.environment import Environment, Heat
from deploy.latency.comparison import ComparisonResult
from deploy.latency.energy import Energy
from deploy.latency.foreign_load import CpuReading, wait_for_quiet
from deploy.latency.measurement import Measurement, Noise, measurement_of, noise_of
from deploy.latency.policies import LoadGate, WarmUp
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
from deploy.latency.rounds import SETTLE_RUNS, Samples, run_rounds
from deploy.latency.statistics import needed_samples
from deploy.latency.worker_process import WorkerProcess
from deploy.power_rails import energy_pass, require_rails

DEFAULT_WARM_UP = WarmUp()
DEFAULT_GATE = LoadGate()


@dataclass(frozen=True)
class Candidate:
    """An engine to measure: the folder of its `engine.json`, and the function `module:name` that loads it.

    `input_file`: what this one is run on where it takes another input than the others, such as one channel.
    `cuda_graph`: time it as a replayed CUDA graph; UsageError for an engine that is not on a GPU or cannot be captured.
    """

    name: str
    folder: Path
    loader: str = DEFAULT_LOADER
    build_ms: float | None = None
    input_file: Path | None = None
    cuda_graph: bool = False


@dataclass
class _Subject:
    """A candidate with its live worker and what it has given so far."""

    candidate: Candidate
    shape: tuple[int, ...]
    worker: WorkerProcess
    loaded: LoadReply
    first_ns: int
    warm: WarmUpReply
    samples: Samples

    def run_block(self) -> None:
        reply = self.worker.ask(RunCommand(count=self.samples.block_runs, settle=SETTLE_RUNS), RunReply)
        self.samples.add(reply.wall_ns, reply.cpu_ns, reply.gpu_ms)

    def run_untimed(self) -> int:
        return len(self.worker.ask(RunCommand(count=self.samples.block_runs), RunReply).wall_ns)


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
    energy_seconds: float | None = None,
) -> ComparisonResult:
    """Measure `candidates` side by side on one input, or each on its own, and return their distributions.

    The input is `input_file` (.npy, float32 [N, C, H, W]) or uniform noise in [0, 1) of `input_shape`, for those that
    name no file of their own. Each round runs one block of about `block_seconds` of every engine, in an order drawn
    anew from `seed`. Rounds go on until every engine has `min_seconds` of timed runs and `min_samples` samples (None:
    what the highest percentile needs), or the rounds have lasted `max_seconds`. `timeout_seconds` limits each answer of
    a worker. `energy_seconds`: how long each engine is run once more, after the rounds, to measure what it takes from
    the power rails.

    Raises UsageError for a request that makes no sense or for energy that this machine does not tell, DeviceError for a
    worker that dies or hangs, VerificationError for an engine that raises. No worker survives this call, however it
    ends.
    """
    wanted = min_samples if min_samples is not None else max((needed_samples(p) for p in percentiles), default=1)
    _check(candidates, threads, min_seconds, max_seconds, affinity)
    rails = require_rails() if energy_seconds else []
    environment = Environment.record()
    with tempfile.TemporaryDirectory(prefix="bitwright-latency-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        given = _inputs(candidates, input_shape, input_file, seed, folder)
        foreign_before, waited = wait_for_quiet(gate.max_foreign_cores, gate.wait_seconds, gate.window_seconds)
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
            subject = _load(candidate, worker, given[index], threads, warm_up, timeout_seconds)
            subject.samples.size_blocks(subject.warm.wall_ns, block_seconds)
            subjects.append(subject)
        pids = [subject.worker.pid for subject in subjects]
        heat_before = Heat.record()
        before = CpuReading.take(pids)
        by_name = {subject.samples.name: subject for subject in subjects}
        rounds = run_rounds(
            [subject.samples for subject in subjects],
            lambda arm: by_name[arm.name].run_block(),
            seed=seed,
            min_seconds=min_seconds,
            min_samples=wanted,
            max_seconds=max_seconds,
        )
        total = max(s.samples.expected_rounds(s.warm.wall_ns, min_seconds, wanted) for s in subjects)
        order = tuple(track(rounds, "measuring latency, interleaved", total))
        foreign_during = before.foreign_cores_until(CpuReading.take(pids))
        heat_after = Heat.record()
        energy = None
        if energy_seconds:
            untimed = {name: subject.run_untimed for name, subject in by_name.items()}
            energy = Energy.model_validate(energy_pass(rails, untimed, energy_seconds))
        on_gpu = any(subject.samples.gpu_ms for subject in subjects)
        noise = noise_of(foreign_before, foreign_during, gate.max_foreign_cores, (heat_before, heat_after), gpus=on_gpu)
        measurements = tuple(
            _finish(subject, threads, tuple(percentiles), noise, environment.fingerprint) for subject in subjects
        )
        return ComparisonResult(
            measurements=measurements,
            order=order,
            seed=seed,
            min_seconds=min_seconds,
            min_samples=wanted,
            max_seconds=max_seconds,
            settle_runs=SETTLE_RUNS,
            target_reached=all(subject.samples.done(min_seconds, wanted) for subject in subjects),
            waited_seconds=waited,
            foreign_cores_before=foreign_before,
            foreign_cores_during=foreign_during,
            clock_mhz_after=heat_after.clock_mhz,
            heat_before=heat_before,
            heat_after=heat_after,
            energy=energy,
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


def _inputs(
    candidates: Sequence[Candidate], shape: Sequence[int] | None, file: Path | None, seed: int, folder: Path
) -> list[tuple[Path, tuple[int, ...]]]:
    """The .npy file that each candidate's worker reads, and its shape; a file is looked at, or made, once."""
    named = {c.input_file for c in candidates}
    known = {own: _prepare_input(*((shape, file) if own is None else (None, own)), seed, folder) for own in named}
    return [known[c.input_file] for c in candidates]


def _prepare_input(
    shape: Sequence[int] | None, file: Path | None, seed: int, folder: Path
) -> tuple[Path, tuple[int, ...]]:
    """The .npy file of an input, and its shape."""
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


def _load(
    candidate: Candidate,
    worker: WorkerProcess,
    given: tuple[Path, tuple[int, ...]],
    threads: int,
    warm_up: WarmUp,
    timeout_seconds: float,
) -> _Subject:
    command = LoadCommand(
        loader=candidate.loader,
        folder=candidate.folder.resolve(),
        input_file=given[0],
        threads=threads,
        cuda_graph=candidate.cuda_graph,
    )
    loaded = worker.ask(command, LoadReply)
    first = worker.ask(RunCommand(count=1), RunReply)
    warm = worker.ask(WarmUpCommand(policy=warm_up), WarmUpReply, timeout_seconds + warm_up.max_seconds)
    return _Subject(candidate, given[1], worker, loaded, first.wall_ns[0], warm, Samples(candidate.name))


def _finish(
    subject: _Subject,
    threads: int,
    percentiles: tuple[float, ...],
    noise: tuple[Noise, ...],
    fingerprint: str,
) -> Measurement:
    info = subject.worker.ask(InfoCommand(), InfoReply)
    return measurement_of(
        subject.samples,
        spec=info.spec,
        input_shape=subject.shape,
        output_shape=info.output_shape,
        threads=threads,
        affinity=info.affinity,
        percentiles=percentiles,
        warm_ns=subject.warm.wall_ns,
        steady=subject.warm.steady,
        build_ms=subject.candidate.build_ms,
        import_ms=subject.loaded.import_ms,
        load_ms=subject.loaded.load_ms,
        first_ns=subject.first_ns,
        rss_before_load_bytes=subject.loaded.rss_before_bytes,
        peak_rss_bytes=info.peak_rss_bytes,
        noise=noise,
        environment_fingerprint=fingerprint,
        cuda_graph=subject.candidate.cuda_graph,
    )
