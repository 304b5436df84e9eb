"""ComparisonResult: engines that were measured side by side in one session."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation.errors import UsageError
from deploy.environment import Environment, Heat
from deploy.latency.energy import Energy
from deploy.latency.measurement import SCHEMA_VERSION, Clock, Measurement, Speedup
from deploy.latency.statistics import paired_ratio


class Elsewhere(BaseModel):
    """How a comparison came here that a bundle measured on its own, mostly on another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bundle: str = Field(description="SHA-256 of the bundle's manifest")
    sessions: int = Field(ge=1, description="more than one where it was cut short and went on")
    output_differences: dict[str, float] = Field(
        description="largest absolute difference of each engine's output there from its output where it was bundled"
    )
    simulated: tuple[str, ...] = Field(
        default=(), description="engines that did not run there: the difference is from the network in torch"
    )


class ComparisonResult(BaseModel):
    """Measurements of one session; `order` names the engines in the order in which each round ran them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = SCHEMA_VERSION
    measurements: tuple[Measurement, ...]
    order: tuple[tuple[str, ...], ...]
    seed: int
    min_seconds: float
    min_samples: int
    max_seconds: float
    settle_runs: int
    target_reached: bool
    waited_seconds: float
    foreign_cores_before: float
    foreign_cores_during: float
    clock_mhz_after: float | None
    heat_before: Heat | None = Field(default=None, description="when the engines were warm, before the first round")
    heat_after: Heat | None = None
    energy: Energy | None = Field(default=None, description="None: not asked for")
    elsewhere: Elsewhere | None = Field(default=None, description="None: measured by this very process")
    environment: Environment

    def measurement(self, name: str) -> Measurement:
        """The measurement of the engine called `name`; UsageError names the engines there are."""
        for measurement in self.measurements:
            if measurement.name == name:
                return measurement
        raise UsageError(f"no engine {name!r} in this comparison; there are {[m.name for m in self.measurements]}")

    def speedup(self, candidate: str, baseline: str, clock: Clock = Clock.WALL) -> Speedup:
        """How much faster `candidate` is than `baseline`, paired by round, with a 95 % interval."""
        ratio = paired_ratio(
            self.measurement(baseline).blocks(clock), self.measurement(candidate).blocks(clock), seed=self.seed
        )
        return Speedup.from_ratio(ratio, clock)
