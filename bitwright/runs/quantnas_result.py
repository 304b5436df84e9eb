"""QuantnasResult: what a run of QuantNAS found, as JSON and as lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field


class QuantnasPoint(BaseModel):
    """One search and the network it found. Costs are of the whole network; quality is PSNR-Y in dB."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    budget: float | None
    penalty: float | None
    cost: float
    corrected: int = Field(description="layers changed after the last step so that the budget holds")
    final_penalty: float | None = Field(
        default=None, description="coefficient of the cost at the end of the search; a budget moves it"
    )
    expected: float | None = Field(default=None, description="cost of the mixture that the search ended with")
    bitops: dict[str, float] = Field(description="by LR size")
    parameters: int | None
    held_out: float | None
    evaluated: float | None
    evaluated_published: float | None = Field(
        default=None,
        description="on the same pictures by the protocol of the published code: luma in whole grey levels",
    )
    search_seconds: float
    genotype: str
    network: str | None


class QuantnasResult(BaseModel):
    """All points of a run. `runs_as`: what each bit width executes as on the device; `front`: the points that none
    beats in cost and quality, by ascending cost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: str
    unit: str
    cost_source: str
    runs_as: dict[str, str]
    notes: tuple[str, ...]
    points: tuple[QuantnasPoint, ...]
    front: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For the terminal."""
        shown = [f"{self.space}: cost in {self.unit} ({self.cost_source})", *self.notes]
        for point in self.points:
            parts = [f"{point.name}: {point.cost:.4g} {self.unit}", f"{point.bitops['32x32'] / 1e9:.3g} GBitOps"]
            if point.held_out is not None:
                parts.append(f"{point.held_out:.3f} dB on held-out pictures of --data")
            if point.evaluated is not None:
                parts.append(f"{point.evaluated:.3f} dB on --eval")
            if point.evaluated_published is not None:
                parts.append(f"{point.evaluated_published:.3f} dB there by the published code's protocol")
            parts.append(point.network or point.genotype)
            if len(self.points) > 1 and point.name in self.front:
                parts.append("on the front")
            shown.append(", ".join(parts))
        return shown


def front_of(points: Sequence[QuantnasPoint]) -> tuple[str, ...]:
    """Names of the points that no other beats, by ascending cost; quality is that of the held-out pictures."""
    found: list[str] = []
    best = -math.inf
    for point in sorted((p for p in points if p.held_out is not None), key=lambda p: (p.cost, -(p.held_out or 0.0))):
        assert point.held_out is not None
        if point.held_out > best:
            best = point.held_out
            found.append(point.name)
    return tuple(found)
