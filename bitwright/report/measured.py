"""Measured latency in a report: two distributions with their raw samples, and the ratio between them."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GpuStages(_Part):
    """Medians of the stages of a run on a GPU by CUDA events, ms; the latency holds all three."""

    to_device_ms: Milliseconds
    compute_ms: Milliseconds
    to_host_ms: Milliseconds
    cuda_graph: bool = Field(description="whether the computation was a replayed CUDA graph")

    @property
    def words(self) -> str:
        """The stages in words."""
        how = ", as a CUDA graph" if self.cuda_graph else ""
        return (
            f"copy to the GPU {self.to_device_ms:.3f} ms, computation {self.compute_ms:.3f} ms{how}, "
            f"copy back {self.to_host_ms:.3f} ms"
        )


class LatencyStats(_Part):
    """Steady-state latency of one engine at batch 1. Intervals are 95 % order-statistic intervals; null: not given."""

    median_ms: Milliseconds
    median_low_ms: Milliseconds | None = None
    median_high_ms: Milliseconds | None = None
    p90_ms: Milliseconds | None = Field(description="null when there are too few samples to state it")
    p90_low_ms: Milliseconds | None = None
    p90_high_ms: Milliseconds | None = None
    n: PositiveInt
    iqr_ms: Milliseconds
    cv: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(description="standard deviation / mean, no unit")
    samples_ms: tuple[Milliseconds, ...] = Field(description="every sample, in the order it was taken")
    peak_rss_bytes: NonNegativeInt | None = None
    load_ms: Milliseconds | None = Field(default=None, description="time to load the engine")
    first_ms: Milliseconds | None = Field(default=None, description="first inference, cold")
    gpu: GpuStages | None = Field(default=None, description="null for an engine that is not on a GPU")

    @model_validator(mode="after")
    def _counts_its_samples(self) -> Self:
        if self.n != len(self.samples_ms):
            raise ValueError(f"n is {self.n} but there are {len(self.samples_ms)} samples")
        return self


class Speedup(_Part):
    """Paired ratio baseline / engine from interleaved runs, with its 95 % interval; above 1 the engine is faster.

    `low` and `high` are both null where too few rounds ran to give an interval.
    """

    ratio: Ratio
    low: Ratio | None
    high: Ratio | None
    verdict: str = Field(description="the harness's own word, such as 'faster' or 'no difference seen'")

    @model_validator(mode="after")
    def _whole_interval_or_none(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"low is {self.low} and high is {self.high}; give both ends of the interval or neither")
        return self


class Latency(_Part):
    """Latency of the engine and of the float baseline on the same machine, threads and input."""

    engine: LatencyStats
    float: LatencyStats
    speedup: Speedup
    input_shape: tuple[PositiveInt, ...] = Field(description="N, C, H, W of the timed input")
    threads: PositiveInt
    noisy: bool = Field(description="other work was seen on the machine while measuring")
    baseline: str = Field(default="ONNX Runtime fp32", description="what `float` is")
