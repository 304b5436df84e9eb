"""What a profiling session is asked for, and what it says when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Size = tuple[Annotated[int, Field(ge=1, le=16384)], Annotated[int, Field(ge=1, le=16384)]]


class ProfileRequest(BaseModel):
    """What is measured, and on what. `sizes`: heights and widths of the input, without them those of the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoints: tuple[Path, ...] = ()
    device: str
    runtime: str | None = None
    out: Path
    grid: bool = True
    sizes: tuple[Size, ...] | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    seconds: Annotated[float, Field(gt=0, le=600)] = 2.0
    redo_noisy: bool = False
    model: str | None = None
    scale: Annotated[int, Field(ge=1, le=16)] | None = None


class ProfileSummary(BaseModel):
    """What a session did, or would do. An engine is a network under a plan at a size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: str
    device: str
    runtime: str
    threads: int
    networks: tuple[str, ...]
    measured: int = Field(description="engines that were measured now")
    present: int = Field(description="engines that the table has from this environment")
    kernels: int = Field(description="distinct kernels in the table")
    share: dict[str, tuple[float, float]] = Field(
        description="smallest and largest sum of kernel times over the whole latency, of what was measured now"
    )
    noisy: int = Field(description="engines during whose measurement others kept the machine busy")
    warning: str | None = None
    left: int | None = Field(default=None, description="engines that a dry run found to be measured, at most")
    minutes: float | None = Field(default=None, description="what a dry run expects them to take, about")

    def lines(self) -> tuple[str, ...]:
        """The summary in words."""
        lines = [f"{self.out}: {self.device}, {self.runtime}, {self.threads} thread(s)"]
        lines.append(f"in the table: {self.kernels} distinct kernels, {self.present} engines of this environment")
        if self.left is None:
            lines.append(f"measured now: {self.measured} engines")
        elif self.left:
            lines.append(f"to be measured: at most {self.left} engines, about {max(self.minutes or 0, 1):.0f} minutes")
        else:
            lines.append("to be measured: nothing, all of it is in the table")
        for name in self.networks:
            low, high = self.share.get(name, (None, None))
            told = "" if low is None else f": kernels add up to {low:.2f}-{high:.2f} of the whole latency"
            lines.append(f"  {name}{told}")
        if self.noisy:
            lines.append(f"warning: others kept the machine busy during {self.noisy} of them; those times are rough")
        if self.warning is not None:
            lines.append(self.warning)
        return tuple(lines)
