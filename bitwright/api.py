"""The front door in Python: the main job in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitwright.report.schema import Report
from bitwright.runs.compress import compress as run_job
from bitwright.runs.request import CompressRequest
from bitwright.runs.stages import ENGINE
from deploy.engine import Engine
from deploy.engines import load_engine


@dataclass(frozen=True)
class Result:
    """A finished run."""

    run: Path
    report: Report

    def engine(self, threads: int = 1) -> Engine:
        """The engine, loaded; `run(x)` takes and gives float32 arrays [N, C, H, W]."""
        return load_engine(self.run / ENGINE, threads)


def compress(
    checkpoint: str | Path,
    *,
    device: str,
    data: str | Path,
    eval_data: str | Path | None = None,
    max_drop: float | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Result:
    """Compress a checkpoint for a device and return its run.

    `max_drop` is in the metric's unit (dB or %). `settings` holds further fields of `CompressRequest`. Raises as
    `bitwright compress` exits: UsageError, ConstraintError, VerificationError.
    """
    request = CompressRequest.model_validate(
        {
            "checkpoint": checkpoint,
            "device": device,
            "data": data,
            "eval_data": eval_data,
            "max_drop": max_drop,
            "out": out,
            **(settings or {}),
        }
    )
    report = run_job(request, resume=resume, overwrite=overwrite)
    return Result(request.run_folder, report)


__all__ = ["Result", "compress"]
