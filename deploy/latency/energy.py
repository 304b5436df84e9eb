"""Energy: what engines took from the power rails of a machine, each alone for some seconds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ArmEnergy(_Record):
    """One engine at work, without a break: joules by rail, whatever else the machine did included."""

    runs: Annotated[int, Field(ge=1)]
    seconds: Annotated[float, Field(gt=0)]
    joules: dict[str, float]


class Energy(_Record):
    """A pass over all engines, with the machine idle before and after it."""

    idle_watts: dict[str, float]
    arms: dict[str, ArmEnergy]

    def millijoules(self, arm: str, rail: str) -> float:
        """Of one run, above what the idle machine takes in that time."""
        taken = self.arms[arm]
        return 1e3 * (taken.joules[rail] - self.idle_watts[rail] * taken.seconds) / taken.runs

    def lines(self) -> tuple[str, ...]:
        """A line for each rail."""
        found = []
        for rail, idle in self.idle_watts.items():
            each = ", ".join(f"{arm} {self.millijoules(arm, rail):.3g} mJ" for arm in self.arms)
            found.append(f"energy of a run above idle ({idle:.3g} W) on {rail}: {each}")
        return tuple(found)

    def watts(self, arm: str, rail: str) -> float:
        """Of the machine, while the engine runs without a break."""
        taken = self.arms[arm]
        return taken.joules[rail] / taken.seconds
