"""The base of every part of a profile, frozen and closed to unknown keys; the number types with plausible ranges."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A frozen value that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# The ranges are wide enough for any device and narrow enough to catch GHz written as MHz or bytes written as KiB.
Count = Annotated[int, Field(strict=True, ge=1, le=10**9)]
Mhz = Annotated[float, Field(strict=True, ge=10, le=20_000)]
Tops = Annotated[float, Field(strict=True, gt=0, le=100_000)]
GopsPerCore = Annotated[float, Field(strict=True, ge=0.1, le=100_000)]
GbPerSecond = Annotated[float, Field(strict=True, ge=0.001, le=100_000)]
Gb = Annotated[float, Field(strict=True, ge=0.001, le=100_000)]
Kib = Annotated[float, Field(strict=True, ge=1, le=10**8)]
Watt = Annotated[float, Field(strict=True, ge=0.001, le=5_000)]
Microseconds = Annotated[float, Field(strict=True, ge=0, le=10**6)]
Nanoseconds = Annotated[float, Field(strict=True, ge=0, le=10**6)]
Factor = Annotated[float, Field(strict=True, ge=0.01, le=1_000)]
