"""Measurement: a latency distribution with its raw samples and the circumstances it was taken in."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deploy.engine import EngineSpec
from deploy.environment import Heat
from deploy.latency import statistics
from deploy.latency.gpu_times import GpuSummary, GpuTimes
from deploy.latency.rounds import Samples
from deploy.latency.statistics import PairedRatio, Percentile, Verdict

SCHEMA_VERSION: Literal[1] = 1
_STARVED_SHARE = 0.05
_NS_PER_MS = 1e6


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Noise(StrEnum):
    """Why a distribution may be wider or slower than the engine is."""

    FOREIGN_LOAD_BEFORE = "others kept the machine busy when the measurement began"
    FOREIGN_LOAD_DURING = "others kept the machine busy during the measurement"
    THROTTLED = "the machine held its clock back, by heat, power or a limit"
    STARVED = "more than 5 % of the samples got fewer cores than threads"


class Clock(StrEnum):
    """What a ratio is taken on: wall time, or the CPU time of the worker (steadier on a shared machine, one thread)."""

    WALL = "wall"
    CPU = "cpu"


class Speedup(_Record):
    """Speed of a candidate relative to a baseline, from paired blocks; above 1 is faster. No bounds: too few blocks."""

    ratio: float
    low: float | None
    high: float | None
    verdict: Verdict
    blocks: int
    clock: Clock = Clock.WALL

    @classmethod
    def from_ratio(cls, ratio: PairedRatio, clock: Clock) -> Self:
        """Wrap a paired ratio."""
        return cls(
            ratio=ratio.ratio,
            low=ratio.low,
            high=ratio.high,
            verdict=ratio.verdict,
            blocks=ratio.blocks,
            clock=clock,
        )


class PercentileSummary(_Record):
    """One percentile in ms; `value_ms` is None where `n` < `needed`, a bound is None where none exists."""

    percent: float
    value_ms: float | None
    low_ms: float | None
    high_ms: float | None
    n: int
    needed: int


class LatencySummary(_Record):
    """The figures of a report, all in ms unless named otherwise; a percentile that was refused is None."""

    name: str
    n: int
    median_ms: float
    median_low_ms: float | None
    median_high_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    iqr_ms: float
    cv: float | None
    min_ms: float
    max_ms: float
    cpu_median_ms: float
    outliers: int
    starved_samples: int
    percentiles: tuple[PercentileSummary, ...]
    gpu: GpuSummary | None = None
    build_ms: float | None
    load_ms: float
    first_ms: float
    peak_rss_bytes: int | None
    threads: int
    input_shape: tuple[int, ...]
    steady: bool
    noise: tuple[Noise, ...]


class Measurement(_Record):
    """Latency of one engine on one input. `samples_ms` and `cpu_ms` are one value a run, in the order taken.

    Sample runs came in blocks of `block_sizes`; block i of every engine of a comparison ran in the same round.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    spec: EngineSpec
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    threads: int = Field(ge=1)
    affinity: tuple[int, ...] | None
    percentiles: tuple[float, ...]
    samples_ms: tuple[float, ...] = Field(min_length=1)
    cpu_ms: tuple[float, ...] = Field(min_length=1)
    block_sizes: tuple[int, ...]
    warm_up_ms: tuple[float, ...]
    build_ms: float | None = Field(description="time to build the artefact, as told by who built it")
    import_ms: float
    load_ms: float
    first_ms: float = Field(description="the first, cold inference")
    rss_before_load_bytes: int | None
    peak_rss_bytes: int | None
    starved_samples: int = Field(description="samples that got fewer cores than threads; counted, not dropped")
    noise: tuple[Noise, ...]
    steady: bool = Field(description="whether the warm-up ended steady, not at its cap")
    environment_fingerprint: str
    gpu: GpuTimes | None = Field(default=None, description="None: not on a GPU")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.samples_ms) == len(self.cpu_ms) == sum(self.block_sizes):
            raise ValueError("samples_ms, cpu_ms and the sum of block_sizes differ in length")
        if self.gpu is not None and not self.gpu.counts(len(self.samples_ms)):
            raise ValueError("the stages on the GPU and samples_ms differ in length")
        return self

    @property
    def noisy(self) -> bool:
        """Whether any noise was seen."""
        return bool(self.noise)

    def blocks(self, clock: Clock = Clock.WALL) -> tuple[tuple[float, ...], ...]:
        """The samples in ms, block by block."""
        values = self.samples_ms if clock is Clock.WALL else self.cpu_ms
        return tuple(values[start:end] for start, end in pairwise(accumulate(self.block_sizes, initial=0)))

    def percentile(self, percent: float) -> Percentile:
        """A percentile of the wall times in ms with its interval, refused below the needed number of samples."""
        return statistics.percentile(self.samples_ms, percent)

    def to_summary(self) -> LatencySummary:
        """The figures that a report shows."""
        middle = statistics.percentile(self.samples_ms, 50.0, refuse=False)
        wanted = tuple(self.percentile(percent) for percent in self.percentiles)
        return LatencySummary(
            name=self.name,
            n=len(self.samples_ms),
            median_ms=statistics.median(self.samples_ms),
            median_low_ms=middle.low,
            median_high_ms=middle.high,
            p90_ms=self.percentile(90.0).value,
            p99_ms=self.percentile(99.0).value,
            iqr_ms=statistics.interquartile_range(self.samples_ms),
            cv=statistics.coefficient_of_variation(self.samples_ms),
            min_ms=min(self.samples_ms),
            max_ms=max(self.samples_ms),
            cpu_median_ms=statistics.median(self.cpu_ms),
            outliers=statistics.count_outliers(self.samples_ms),
            starved_samples=self.starved_samples,
            percentiles=tuple(
                PercentileSummary(
                    percent=p.percent, value_ms=p.value, low_ms=p.low, high_ms=p.high, n=p.n, needed=p.needed
                )
                for p in wanted
            ),
            gpu=None if self.gpu is None else self.gpu.to_summary(),
            build_ms=self.build_ms,
            load_ms=self.load_ms,
            first_ms=self.first_ms,
            peak_rss_bytes=self.peak_rss_bytes,
            threads=self.threads,
            input_shape=self.input_shape,
            steady=self.steady,
            noise=self.noise,
        )


def noise_of(
    foreign_before: float, foreign_during: float, max_foreign_cores: float, heats: Sequence[Heat], *, gpus: bool
) -> tuple[Noise, ...]:
    """What disturbed a measurement: more than `max_foreign_cores` busy with other work, or a clock held back.

    `heats`: in order, when each of its sessions began, and when the last one ended. `gpus`: whether an engine ran on a
    GPU.
    """
    found = {
        Noise.FOREIGN_LOAD_BEFORE: foreign_before > max_foreign_cores,
        Noise.FOREIGN_LOAD_DURING: foreign_during > max_foreign_cores,
        Noise.THROTTLED: any(before.throttled_until(after, gpus=gpus) for before, after in pairwise(heats)),
    }
    return tuple(noise for noise, seen in found.items() if seen)


def count_starved(samples_ms: tuple[float, ...], cpu_ms: tuple[float, ...], threads: int) -> int:
    """Samples whose CPU time says that fewer cores were free than the engine has threads.

    With two or more threads: CPU time about equal to wall time or less (at most 1.1 of it), so only one core was free.
    With one thread: CPU time below 0.9 of wall time, so the thread was waiting for a core.
    """
    limit = 0.9 if threads == 1 else 1.1
    return sum(cpu < limit * wall for wall, cpu in zip(samples_ms, cpu_ms, strict=True))


def is_starved(starved_samples: int, n: int) -> bool:
    """Whether the share of starved samples is worth a warning."""
    return starved_samples > _STARVED_SHARE * n


def measurement_of(
    samples: Samples,
    *,
    spec: EngineSpec,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    threads: int,
    affinity: tuple[int, ...] | None,
    percentiles: tuple[float, ...],
    warm_ns: Sequence[int],
    steady: bool,
    build_ms: float | None,
    import_ms: float,
    load_ms: float,
    first_ns: int,
    rss_before_load_bytes: int | None,
    peak_rss_bytes: int | None,
    noise: tuple[Noise, ...],
    environment_fingerprint: str,
    cuda_graph: bool = False,
) -> Measurement:
    """The measurement that an engine's samples make; where they were starved of cores, that is added to `noise`.

    The processor only waits for what runs on a GPU, so that its time says nothing of free cores.
    """
    gpu = GpuTimes.of(samples.gpu_ms, cuda_graph)
    wall = tuple(ns / _NS_PER_MS for ns in samples.wall_ns)
    cpu = tuple(ns / _NS_PER_MS for ns in samples.cpu_ns)
    starved = 0 if gpu is not None else count_starved(wall, cpu, threads)
    return Measurement(
        name=samples.name,
        spec=spec,
        input_shape=input_shape,
        output_shape=output_shape,
        threads=threads,
        affinity=affinity,
        percentiles=percentiles,
        samples_ms=wall,
        cpu_ms=cpu,
        block_sizes=tuple(samples.block_sizes),
        warm_up_ms=tuple(ns / _NS_PER_MS for ns in warm_ns),
        build_ms=build_ms,
        import_ms=import_ms,
        load_ms=load_ms,
        first_ms=first_ns / _NS_PER_MS,
        rss_before_load_bytes=rss_before_load_bytes,
        peak_rss_bytes=peak_rss_bytes,
        starved_samples=starved,
        noise=(*noise, Noise.STARVED) if is_starved(starved, len(wall)) else noise,
        steady=steady,
        environment_fingerprint=environment_fingerprint,
        gpu=gpu,
    )
