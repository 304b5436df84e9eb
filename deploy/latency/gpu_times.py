"""GpuTimes: the stages of each run on a GPU by the GPU's own clock, beside the wall time that holds all three."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from deploy.latency.statistics import median
from deploy.latency.timing import Stages


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GpuSummary(_Record):
    """Medians of the stages on a GPU, ms; `graph`: whether the computation was a replayed CUDA graph."""

    to_device_ms: float
    compute_ms: float
    to_host_ms: float
    graph: bool


class GpuTimes(_Record):
    """Ms of each recorded run by CUDA events, in the order taken: copy to the GPU, computation, copy back.

    `graph`: whether the computation was a replayed CUDA graph.
    """

    to_device_ms: tuple[float, ...] = Field(min_length=1)
    compute_ms: tuple[float, ...]
    to_host_ms: tuple[float, ...]
    graph: bool

    @classmethod
    def of(cls, runs: Sequence[Stages], graph: bool) -> Self | None:
        """The stages of `runs`; None where there are none, as for an engine on the processor."""
        if not runs:
            return None
        to_device, compute, to_host = zip(*runs, strict=True)
        return cls(to_device_ms=to_device, compute_ms=compute, to_host_ms=to_host, graph=graph)

    def counts(self, runs: int) -> bool:
        """Whether each stage has a time for each of `runs`."""
        return all(len(times) == runs for times in (self.to_device_ms, self.compute_ms, self.to_host_ms))

    def to_summary(self) -> GpuSummary:
        """The median of each stage."""
        return GpuSummary(
            to_device_ms=median(self.to_device_ms),
            compute_ms=median(self.compute_ms),
            to_host_ms=median(self.to_host_ms),
            graph=self.graph,
        )
