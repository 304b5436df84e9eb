"""Prediction: the time of a network by its kernels, each with where its figure comes from."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from hw_profiles.kernel import Kernel
from hw_profiles.model import Part


class Source(StrEnum):
    """Where the time of a kernel comes from, most trusted first."""

    MEASURED = "measured"
    """This very kernel was timed on the device."""
    INTERPOLATED = "interpolated"
    """A regression over measured kernels of its family."""
    ROOFLINE = "roofline"
    """Peaks of the device profile: nothing of its family was measured."""


class KernelTime(Part):
    """A kernel and its predicted time, ms."""

    kernel: Kernel
    ms: float = Field(ge=0)
    source: Source


class Prediction(Part):
    """Predicted time of one inference, ms; `low` and `high` are the 10th and 90th percentile of held-out errors.

    `coverage` is the share of the predicted kernel time that comes from rows of the very same kernels, 0 to 1.
    `uncovered` names what was estimated from peaks alone: its layers, or the operator where it has none.
    `peak_memory_bytes` is computed from the sizes of weights and live tensors; it is not measured.
    """

    ms: float = Field(ge=0)
    low: float | None = None
    high: float | None = None
    kernels: tuple[KernelTime, ...]
    coverage: float = Field(ge=0, le=1)
    uncovered: tuple[str, ...] = ()
    peak_memory_bytes: int = Field(ge=0)
