"""What a session goes by: when a warm-up may end, and when the machine counts as quiet."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field


class WarmUp(BaseModel):
    """Warm-up policy: at least `min_runs` and `min_seconds`, then until steady, at most `max_seconds`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_runs: int = Field(default=5, ge=1)
    min_seconds: float = Field(default=0.5, ge=0)
    max_seconds: float = Field(default=15.0, gt=0)
    tolerance: float = Field(
        default=0.01, ge=0, description="drift that always counts as steady, as a share of the median"
    )


class LoadGate(BaseModel):
    """When the machine counts as quiet, and how long to wait for that before going on with a `noisy` stamp."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_foreign_share: float = Field(default=0.1, ge=0, description="of all cores")
    wait_seconds: float = Field(default=20.0, ge=0)
    window_seconds: float = Field(default=0.5, gt=0)

    @classmethod
    def for_session(cls, seconds: float) -> LoadGate:
        """The gate of a session that times each engine for `seconds`: a short one also waits less."""
        return cls(wait_seconds=min(cls().wait_seconds, 4 * seconds))

    @property
    def max_foreign_cores(self) -> float:
        """The limit in busy cores of this machine."""
        return self.max_foreign_share * (os.cpu_count() or 1)
