"""CurvePreview: what a curve would consist of, before any of it is made and without writing anything."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from bitwright.runs.curve_request import CurveRequest
from bitwright.runs.preview import Preview
from bitwright.runs.preview import preview as preview_job


class CurvePreview(BaseModel):
    """A curve's points before their plans are known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: Preview
    mixed_points: int = Field(description="at most")
    least_timed_seconds: float
    command: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """The preview for a terminal."""
        return (
            *self.job.lines(),
            f"then up to {self.mixed_points} mixed-precision engines between float and this one, in two rounds",
            f"each engine is timed for at least {self.least_timed_seconds:g} s beside the float baseline",
        )


def preview(request: CurveRequest) -> CurvePreview:
    """Load and check everything that `request` names; errors as for the curve itself."""
    return CurvePreview(
        job=preview_job(request.job_request()),
        mixed_points=request.points,
        least_timed_seconds=request.measure_seconds,
        command=request.command(),
    )
