"""`bitwright curve`: measured engines between float and all-int8, and the one that keeps the limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.failures import StoppedError
from bitwright.cli.output import JsonFlag, showing_progress, write_line
from bitwright.foundation.errors import ConstraintError, UsageError
from bitwright.recipes import apply_settings
from bitwright.runs.curve_request import CurveRequest

PICKING = "Picking a point"
MEASURING = "Measuring"


def _help(field: str) -> str:
    return CurveRequest.model_fields[field].description or ""


def _default(field: str) -> str:
    value = CurveRequest.model_fields[field].default
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def curve(
    checkpoint: Annotated[Path, typer.Argument(help=_help("checkpoint"), show_default=False)],
    device: Annotated[str, typer.Option(help=_help("device"), metavar="NAME", show_default=False)],
    data: Annotated[Path, typer.Option(help=_help("data"), metavar="DIR", show_default=False)],
    eval_data: Annotated[Path | None, typer.Option("--eval", help=_help("eval_data"), metavar="DIR")] = None,
    runtime: Annotated[str | None, typer.Option(help=_help("runtime"), metavar="R")] = None,
    points: Annotated[int | None, typer.Option(help=_help("points"), show_default=_default("points"))] = None,
    table: Annotated[Path | None, typer.Option(help=_help("table"), metavar="TABLE.jsonl")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; without it, runs/<checkpoint>-<device>-curve.", metavar="RUN")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run, or pick another point of it.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run in the run folder, with everything in it, first.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    as_json: JsonFlag = False,
    budget_ms: Annotated[
        float | None, typer.Option(help=_help("budget_ms"), metavar="MS", rich_help_panel=PICKING)
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Pick the fastest point that loses at most this, in the metric's unit (dB or %).",
            metavar="DB",
            rich_help_panel=PICKING,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help=_help("threads"), show_default=_default("threads"), rich_help_panel=MEASURING)
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option(
            help=_help("input_size"), metavar="HxW", show_default=_default("input_size"), rich_help_panel=MEASURING
        ),
    ] = None,
    measure_seconds: Annotated[
        float | None,
        typer.Option(
            help=_help("measure_seconds"), show_default=_default("measure_seconds"), rich_help_panel=MEASURING
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting by its name, such as seed=1.", metavar="NAME=VALUE"),
    ] = None,
) -> None:
    """Build, audit, evaluate and time engines from float to all-int8; show the curve and pick a point of it."""
    flags = {
        "checkpoint": checkpoint,
        "device": device,
        "data": data,
        "eval_data": eval_data,
        "runtime": runtime,
        "points": points,
        "table": table,
        "out": out,
        "budget_ms": budget_ms,
        "max_drop": max_drop,
        "threads": threads,
        "input_size": input_size,
        "measure_seconds": measure_seconds,
    }
    if resume and overwrite:
        raise UsageError("--resume continues a run and --overwrite removes it; give one of them")
    given = {name: value for name, value in flags.items() if value is not None}
    request = CurveRequest.model_validate(apply_settings(given, assignments or (), CurveRequest))
    request.check_inputs()
    with showing_progress():
        if dry_run:
            _look_ahead(request, as_json)
        else:
            _carry_out(request, resume=resume, overwrite=overwrite, as_json=as_json)


def _look_ahead(request: CurveRequest, as_json: bool) -> None:
    from bitwright.runs.curve_preview import preview

    plan = preview(request)
    write_line(plan.model_dump_json(indent=2) if as_json else "\n".join(plan.lines()))


def _carry_out(request: CurveRequest, *, resume: bool, overwrite: bool, as_json: bool) -> None:
    """Make the curve and print it; a limit that is not reached is told after the curve was printed."""
    from bitwright.runs.curve import curve as make
    from bitwright.runs.followers import follow, follows

    if follows():
        follow(request.job_request())
        return
    try:
        make(request, resume=resume, overwrite=overwrite)
    except ConstraintError:
        _show(request.run_folder, as_json)
        raise
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped; continue with: {request.command_line()} --resume") from error
    _show(request.run_folder, as_json)


def _show(run: Path, as_json: bool) -> None:
    from rich.console import Console

    from bitwright.report.curve_terminal import print_curve
    from bitwright.runs.curve import load_curve

    made = load_curve(run)
    if as_json:
        write_line(made.to_json())
    else:
        print_curve(made, Console(), run)
