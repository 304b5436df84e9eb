"""What the user asked `bitwright upscale` for."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitwright.foundation.errors import UsageError

GIB = 1 << 30
DEFAULT_MEMORY = 2 * GIB

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:I?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": GIB}


class UpscaleRequest(BaseModel):
    """Settings of one upscaling job; lengths in pixels of the input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Path
    source: Path
    out: Path
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), description="threads of the engine"
    )
    memory: Annotated[int, Field(ge=1)] = Field(default=DEFAULT_MEMORY, description="resident bytes, at most")
    tile: Annotated[int, Field(ge=1)] | None = Field(default=None, description="side of a tile, overlap included")
    overlap: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="pixels of its surroundings that a tile reads on each side"
    )
    batch: Annotated[int, Field(ge=1, le=1024)] = Field(default=1, description="tiles that the engine takes at once")
    overwrite: bool = False

    @classmethod
    def of(cls, **settings: object) -> UpscaleRequest:
        """A request of settings that may be wrong; UsageError names the first that is, None is left at its default."""
        try:
            return cls.model_validate({name: value for name, value in settings.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            flag = "--" + "-".join(str(part) for part in first["loc"])
            raise UsageError(f"{flag}: {first.get('input')} is not valid: {first['msg']}") from error


def parse_bytes(text: str, option: str = "--memory") -> int:
    """Bytes of a text such as 2G, 1.5GiB or 800M (powers of 1024); UsageError, which names `option`, for others."""
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found is not None else 0
    if size < 1:
        raise UsageError(f"{option}: {text!r} is not valid; give a size such as 2G or 800M")
    return size
