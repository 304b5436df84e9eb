"""TradeoffCurve: measured engines of one network on one device, and which of them are worth having; `curve.json`.

A value that was not measured is null, never zero. Units are in the field names or in the descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from bitwright.report.schema import Dataset, Device, ModelInfo

CURVE_SCHEMA: Literal[1] = 1
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Kind(StrEnum):
    """What a point is."""

    BASELINE = "baseline"
    FLOAT = "float"
    INTEGER = "int8"
    MIXED = "mixed"
    RECOVERED = "recovered"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PointLayer(_Part):
    """One layer of a point: planned and executed precision, as the audit tells."""

    name: str
    op: str
    macs: NonNegativeInt
    planned: str
    executed: str
    kernel: str = ""


class PointQuality(_Part):
    """Quality on the engine; `drop` is against the baseline engine on the same samples, higher is worse."""

    engine: FiniteFloat
    torch_gap: FiniteFloat = Field(description="engine minus the simulated network in torch, on the samples compared")
    compared: PositiveInt = Field(description="samples on which the engine was compared with torch")
    drop: FiniteFloat
    held_out: FiniteFloat = Field(description="engine, on the held-out samples that choose")
    held_out_drop: FiniteFloat
    extra: dict[str, FiniteFloat] = Field(default_factory=dict)


class PointLatency(_Part):
    """Latency at batch 1. All points were timed in turn with the baseline, in one or more sessions.

    `ms` puts sessions on one scale: the baseline's median over all sessions divided by the paired speed-up, with the
    interval of the speed-up (null where too few rounds ran). `session_ms` is the plain median in its own session.
    """

    ms: Positive
    low_ms: Positive | None
    high_ms: Positive | None
    speedup: Positive
    speedup_low: Positive | None
    speedup_high: Positive | None
    verdict: str
    session: str = Field(description="file with the raw samples, relative to the run folder")
    session_ms: Positive
    p90_ms: Positive | None
    n: PositiveInt
    noisy: bool


class Prediction(_Part):
    """What the plan source expected before the engine was built; null where it said nothing."""

    ms: Positive | None = None
    drop: FiniteFloat | None = None
    source: str = Field(default="", description="cost model that made it")
    coverage: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="share of the predicted time that was measured, not extrapolated"
    )


class Front(_Part):
    """Whether no other point is at least as good in quality and in this cost, and better in one of them."""

    latency: bool
    bitops: bool
    size: bool


class CurvePoint(_Part):
    """One engine that was built, audited, evaluated and timed."""

    name: str
    kind: Kind
    label: str
    runtime: str
    float_precision: str
    plan: str = Field(description="file, relative to the run folder")
    engine: str = Field(description="folder of engine.json, relative to the run folder")
    layers: tuple[PointLayer, ...]
    planned: dict[str, int]
    executed: dict[str, int]
    audit_passed: bool
    quality: PointQuality
    latency: PointLatency
    size_bytes: PositiveInt
    bitops: PositiveInt
    prediction: Prediction = Prediction()
    front: Front


class Choice(_Part):
    """The point that was picked and written to `chosen/`."""

    point: str
    budget_ms: Positive | None
    max_drop: Annotated[float, Field(ge=0)] | None
    reached: bool
    why: str


class TradeoffCurve(_Part):
    """All points of one run, the baseline among them."""

    schema_version: Literal[1] = CURVE_SCHEMA
    bitwright_version: str
    created: AwareDatetime
    model: ModelInfo
    device: Device
    runtime: str
    runtime_version: str
    metric: str
    unit: str
    dataset: Dataset
    held_out: str = Field(description="what chose between plans")
    input_shape: tuple[PositiveInt, ...]
    threads: PositiveInt
    baseline: str
    points: tuple[CurvePoint, ...]
    chosen: Choice | None = None
    warnings: tuple[str, ...] = ()
    environment: dict[str, JsonValue] = Field(default_factory=dict)
    fingerprint: str = Field(description="of the machine and software that the latencies were measured on")
    timings_s: dict[str, float] = Field(default_factory=dict)
    command: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_its_points(self) -> Self:
        names = [point.name for point in self.points]
        if len(set(names)) != len(names):
            raise ValueError("two points have the same name")
        for wanted in (self.baseline, *([self.chosen.point] if self.chosen else [])):
            if wanted not in names:
                raise ValueError(f"no point is named {wanted!r}")
        return self

    def point(self, name: str) -> CurvePoint:
        """The point of that name; KeyError where there is none."""
        for point in self.points:
            if point.name == name:
                return point
        raise KeyError(name)

    @property
    def front(self) -> tuple[CurvePoint, ...]:
        """The points that are not dominated in quality and latency, fastest first."""
        return tuple(sorted((p for p in self.points if p.front.latency), key=lambda p: p.latency.ms))

    def to_json(self) -> str:
        """The content of `curve.json`."""
        return self.model_dump_json(indent=1) + "\n"


def non_dominated(costs: Sequence[float], qualities: Sequence[float]) -> tuple[bool, ...]:
    """For each point, whether no other has cost <= and quality >= with one of them strict. Equal points both stay."""
    flags = []
    for cost, quality in zip(costs, qualities, strict=True):
        flags.append(
            not any(
                c <= cost and q >= quality and (c < cost or q > quality) for c, q in zip(costs, qualities, strict=True)
            )
        )
    return tuple(flags)
