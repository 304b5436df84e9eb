"""EqnetResult: one supernet and what it gave each device, as JSON and as lines."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from bitwright.report.text import ratio_interval
from bitwright.runs.proof import BASELINE_NAME, ENGINE_NAME
from deploy.latency import ComparisonResult
from search.eqnet.predictor import Agreement


class FrontPoint(BaseModel):
    """A member of a device's front: predicted cost and quality, in the task's metric and as the search maximised it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cost: float
    quality: float
    searched: float | None = Field(default=None, description="null in results that are older")
    widths: tuple[tuple[int, int], ...]


class EngineLatency(BaseModel):
    """Median of the engine with its 95 % interval, and its speed-up over ONNX Runtime in float.

    The samples are in `latency.json` of the device's folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    median_ms: float
    low_ms: float | None
    high_ms: float | None
    speedup: float
    speedup_low: float | None
    speedup_high: float | None
    noisy: bool
    machine: str = Field(description="processor that it was measured on, which may be another one than the device's")

    @classmethod
    def of(cls, timed: ComparisonResult) -> Self:
        """Of a session that `time_engines` has made."""
        measurement, ratio = timed.measurement(ENGINE_NAME), timed.speedup(ENGINE_NAME, BASELINE_NAME)
        summary = measurement.to_summary()
        return cls(
            median_ms=summary.median_ms, low_ms=summary.median_low_ms, high_ms=summary.median_high_ms,
            speedup=ratio.ratio, speedup_low=ratio.low, speedup_high=ratio.high, noisy=measurement.noisy,
            machine=timed.environment.cpu_model,
        )  # fmt: skip

    def __str__(self) -> str:
        interval = ratio_interval(self.speedup_low, self.speedup_high)
        noise = "; other work was seen on the machine" if self.noisy else ""
        faster = f"{self.speedup:.2f} [{interval}] times as fast as float"
        return f"{self.median_ms:.3g} ms measured on {self.machine}, {faster}{noise}"


class DevicePlan(BaseModel):
    """What a device gets. Qualities are in the metric of the task.

    `quality` is that of the exported integers in torch, on the pictures that choose; `float_quality` is on the same.
    """  # fmt: skip

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    runtime: str
    form: str
    label: str
    widths: dict[str, tuple[int, int]] = Field(description="weight and input bits by layer")
    runs_as: dict[str, str] = Field(description="what each precision is executed as")
    in_float: tuple[str, ...]
    cost: float
    unit: str
    cost_source: str
    latency: EngineLatency | None = Field(description="of the engine as measured; null: not timed here")
    predicted: float = Field(description="quality as the predictor has it")
    quality: float
    float_quality: float
    evaluated: float | None = Field(description="the same on --eval")
    size_bytes: int
    integer_layers: int | None = Field(description="layers that the audit found on integers; null: no engine here")
    engine: str | None
    folder: str
    notes: tuple[str, ...]
    front: tuple[FrontPoint, ...]


class EqnetResult(BaseModel):
    """All devices of a run. `method`: EQ-Net, or an adaptation of it, which is marked as such.

    `searched_by`: the quality that the predictor learnt and the searches maximised, with its unit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    steps: int
    metric: str
    unit: str
    predictor: Agreement | None = Field(description="on samples left out; null: no device had a choice")
    predictor_kind: str | None = None
    searched_by: str = ""
    devices: tuple[DevicePlan, ...]

    def lines(self) -> list[str]:
        """For the terminal."""
        shown = [f"{self.method}, {self.steps} steps: one supernet, {len(self.devices)} devices"]
        if self.predictor is not None and self.predictor.kendall is not None:
            told = self.predictor
            error = "" if told.kendall_error is None else f" ± {told.kendall_error:.3f}"
            noise = "" if told.noise is None else f", of which the samples' own noise is {told.noise:.3f}"
            shown.append(
                f"predictor of {self.searched_by} ({self.predictor_kind}) on {told.samples} samples left out: "
                f"Kendall {told.kendall:.3f}{error}, RMSE {told.rmse:.3f}{noise}"
            )
        for plan in self.devices:
            widths = sorted({f"w{w}a{a}" for w, a in plan.widths.values()})
            parts = [
                f"{plan.device} ({plan.runtime}): {plan.form}, {', '.join(widths)}",
                f"{plan.cost:.4g} {plan.unit} ({plan.cost_source})",
                f"{self.metric} {plan.quality:.3f} {self.unit}, float {plan.float_quality:.3f} (held-out pictures)",
            ]
            if plan.latency is not None:
                parts.append(str(plan.latency))
            if plan.evaluated is not None:
                parts.append(f"{plan.evaluated:.3f} on --eval")
            parts.append(f"engine {plan.engine}" if plan.engine else f"no engine here: {plan.folder}")
            shown += ["; ".join(parts), *(f"  {remark}" for remark in plan.notes)]
        return shown
