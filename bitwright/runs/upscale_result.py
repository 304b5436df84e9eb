"""UpscaleSummary: what one upscaling job has done."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from bitwright.runs.upscale_request import GIB
from bitwright.runs.upscale_tiles import Tiling

NAMED = 20


class Upscaled(BaseModel):
    """One picture that was written. Seams: absolute difference of neighbouring tiles in 8-bit grey levels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    output: str
    height: int
    width: int
    seconds: float
    seam_largest: float | None = Field(description="null where no two tiles could be compared")
    seam_mean: float | None
    notes: tuple[str, ...]


class SkippedPicture(BaseModel):
    """A picture that could not be used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    reason: str


class Memory(BaseModel):
    """Resident bytes of the process: what was allowed, estimated before the work, and seen at most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int
    estimate: int
    peak: int


class UpscaleSummary(BaseModel):
    """A finished job; `tiling` and `memory` are null where everything had been done before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    out: str
    scale: int
    pictures: tuple[Upscaled, ...]
    already_done: tuple[str, ...]
    skipped: tuple[SkippedPicture, ...]
    tiling: Tiling | None
    memory: Memory | None

    def lines(self) -> tuple[str, ...]:
        """The result in words."""
        others = [f"{len(self.already_done)} done before"] if self.already_done else []
        others += [f"{len(self.skipped)} skipped"] if self.skipped else []
        count = len(self.pictures)
        more = f" ({', '.join(others)})" if others else ""
        lines = [f"{count} {'picture' if count == 1 else 'pictures'} enlarged x{self.scale}, to {self.out}{more}"]
        seams = [picture for picture in self.pictures if picture.seam_largest is not None]
        if seams:
            largest = max(picture.seam_largest or 0.0 for picture in seams)
            mean = sum(picture.seam_mean or 0.0 for picture in seams) / len(seams)
            lines.append(f"where tiles meet they differ by at most {largest:.2g} of 255 grey levels, mean {mean:.2g}")
        if self.memory is not None:
            peak, told, limit = (value / GIB for value in (self.memory.peak, self.memory.estimate, self.memory.limit))
            lines.append(f"resident memory: {peak:.2f} GiB at most (estimated {told:.2f}, limit {limit:.2f})")
            if self.memory.peak > self.memory.estimate:
                lines.append("warning: that is more than was estimated")
        return tuple(lines)

    def complaint(self) -> str | None:
        """One line that names the pictures that were skipped; None where there is none."""
        if not self.skipped:
            return None
        told = "; ".join(f"{one.name}: {one.reason}" for one in self.skipped[:NAMED])
        more = f"; and {len(self.skipped) - NAMED} more" if len(self.skipped) > NAMED else ""
        every = len(self.skipped) + len(self.pictures) + len(self.already_done)
        return f"{len(self.skipped)} of {every} pictures cannot be used ({told}{more}); the others are done"
