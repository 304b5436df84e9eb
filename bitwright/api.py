"""The front door in Python: each job in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitwright.foundation.errors import UsageError
from bitwright.report.schema import Report
from bitwright.report.tradeoff_curve import TradeoffCurve
from bitwright.runs.built import ENGINE
from bitwright.runs.compress import compress as run_job
from bitwright.runs.curve import curve as run_curve
from bitwright.runs.curve_request import CurveRequest
from bitwright.runs.request import CompressRequest
from bitwright.runs.upscale import upscale as run_upscale
from bitwright.runs.upscale_request import DEFAULT_MEMORY, UpscaleRequest
from bitwright.runs.upscale_result import UpscaleSummary
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


@dataclass(frozen=True)
class CurveResult:
    """A finished curve and its run folder."""

    run: Path
    curve: TradeoffCurve

    def engine(self, name: str | None = None, threads: int = 1) -> Engine:
        """The engine of a point, loaded; without a name, that of the picked point. KeyError where there is none."""
        wanted = name if name is not None else self.curve.chosen.point if self.curve.chosen is not None else None
        if wanted is None:
            raise UsageError("no point was picked; name one, or give budget_ms or max_drop")
        return load_engine(self.run / self.curve.point(wanted).engine, threads)


def curve(
    checkpoint: str | Path,
    *,
    device: str,
    data: str | Path,
    eval_data: str | Path | None = None,
    points: int | None = None,
    budget_ms: float | None = None,
    max_drop: float | None = None,
    table: str | Path | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> CurveResult:
    """Measure engines from float to all-int8 on this device and return the curve.

    `budget_ms` and `max_drop` (in the metric's unit) pick a point, whose engine goes to `chosen/` of the run folder.
    `settings` holds further fields of `CurveRequest`. Raises as `bitwright curve` exits: UsageError, ConstraintError.
    """
    given = {"eval_data": eval_data, "points": points, "budget_ms": budget_ms, "max_drop": max_drop, "table": table}
    request = CurveRequest.model_validate(
        {
            "checkpoint": checkpoint,
            "device": device,
            "data": data,
            "out": out,
            **{name: value for name, value in given.items() if value is not None},
            **(settings or {}),
        }
    )
    return CurveResult(request.run_folder, run_curve(request, resume=resume, overwrite=overwrite))


def upscale(
    run: str | Path,
    source: str | Path,
    *,
    out: str | Path,
    threads: int | None = None,
    memory: int = DEFAULT_MEMORY,
    tile: int | None = None,
    overlap: int | None = None,
    batch: int = 1,
    overwrite: bool = False,
) -> UpscaleSummary:
    """Enlarge a picture or a folder of pictures with the engine of a run, and write PNG files.

    `out` is a folder, or the .png file of one picture; `memory` the resident bytes of this process at most; `tile` and
    `overlap` are in input pixels, by default what the network's halo and `memory` ask for. What is done already is not
    done again. Pictures that cannot be read are in `skipped` of the result. Raises UsageError, DataError (no picture
    can be used), OutputError, VerificationError (an output is not finite).
    """
    return run_upscale(
        UpscaleRequest.of(
            run=run, source=source, out=out, threads=threads, memory=memory, tile=tile, overlap=overlap, batch=batch,
            overwrite=overwrite,
        )
    )  # fmt: skip


__all__ = ["CurveResult", "Result", "UpscaleSummary", "compress", "curve", "upscale"]
