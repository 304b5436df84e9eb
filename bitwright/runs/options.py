"""How the fields of a request are called on the command line, and how sizes are written there."""

from __future__ import annotations

import re

from bitwright.foundation.errors import UsageError

POSITIONAL = ("checkpoint",)
"""Fields that are arguments, not options."""
_RENAMED = {"eval_data": "--eval"}
_SIZE = re.compile(r"(\d+)\s*[xX\N{MULTIPLICATION SIGN},]\s*(\d+)")


def option_name(field: str) -> str:
    """The flag of a field: calibration_count is --calibration-count."""
    if field in POSITIONAL:
        return field.upper()
    return _RENAMED.get(field, "--" + field.replace("_", "-"))


def parse_size(text: str, option: str = "--input-size") -> tuple[int, int]:
    """(height, width) of a text such as 128x128; UsageError, which names `option`, for anything else."""
    try:
        size = split_size(text)
    except ValueError as error:
        raise UsageError(f"{option}: {text!r} is not valid; {error}") from error
    if min(size) < 1:
        raise UsageError(f"{option}: {text!r} is not valid; both sides must be at least 1 pixel")
    return size


def split_size(text: str) -> tuple[int, int]:
    """(height, width) of a text such as 128x128; ValueError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError("expected height x width in pixels, such as 128x128")
    return int(found[1]), int(found[2])
