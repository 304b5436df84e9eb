"""`bitwright compress`: flags, a recipe, or both, made into one request and carried out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bitwright.cli.failures import StoppedError
from bitwright.cli.output import JsonFlag, showing_progress, write_line
from bitwright.foundation import progress
from bitwright.foundation.errors import ConstraintError, UsageError, VerificationError
from bitwright.recipes import Recipe, apply_settings, load_recipe, save_recipe
from bitwright.runs.precision import Precision
from bitwright.runs.request import CompressRequest

TUNING = "Tuning"
MEASURING = "Measuring"
RECIPES = "Recipes"


def _help(field: str) -> str:
    return CompressRequest.model_fields[field].description or ""


def _default(field: str) -> str:
    value = CompressRequest.model_fields[field].default
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def compress(
    checkpoint: Annotated[Path | None, typer.Argument(help=_help("checkpoint"), show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help=_help("device"), metavar="NAME")] = None,
    data: Annotated[Path | None, typer.Option(help=_help("data"), metavar="DIR")] = None,
    eval_data: Annotated[Path | None, typer.Option("--eval", help=_help("eval_data"), metavar="DIR")] = None,
    max_drop: Annotated[float | None, typer.Option(help=_help("max_drop"), metavar="DB")] = None,
    runtime: Annotated[str | None, typer.Option(help=_help("runtime"), metavar="R")] = None,
    out: Annotated[Path | None, typer.Option(help=_help("out"), metavar="RUN")] = None,
    model: Annotated[str | None, typer.Option(help=_help("model"), metavar="PKG.MOD:FACTORY")] = None,
    scale: Annotated[int | None, typer.Option(help=_help("scale"))] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run in the run folder, with everything in it, first.")
    ] = False,
    as_json: JsonFlag = False,
    seed: Annotated[
        int | None, typer.Option(help=_help("seed"), show_default=_default("seed"), rich_help_panel=TUNING)
    ] = None,
    calibration_count: Annotated[
        int | None,
        typer.Option(
            help=_help("calibration_count"), show_default=_default("calibration_count"), rich_help_panel=TUNING
        ),
    ] = None,
    calibration_size: Annotated[
        int | None,
        typer.Option(help=_help("calibration_size"), show_default=_default("calibration_size"), rich_help_panel=TUNING),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help=_help("precision"), metavar="NAME", show_default=_default("precision"), rich_help_panel=TUNING
        ),
    ] = None,
    sparsity: Annotated[str | None, typer.Option(help=_help("sparsity"), metavar="N:M", rich_help_panel=TUNING)] = None,
    narrow: Annotated[float | None, typer.Option(help=_help("narrow"), metavar="DROP", rich_help_panel=TUNING)] = None,
    sparsity_method: Annotated[
        str | None,
        typer.Option(
            help=_help("sparsity_method"),
            metavar="NAME",
            show_default=_default("sparsity_method"),
            rich_help_panel=TUNING,
        ),
    ] = None,
    sparsity_share: Annotated[float | None, typer.Option(help=_help("sparsity_share"), rich_help_panel=TUNING)] = None,
    placement: Annotated[str | None, typer.Option(help=_help("placement"), rich_help_panel=TUNING)] = None,
    range_method: Annotated[
        str | None,
        typer.Option(help=_help("range_method"), show_default=_default("range_method"), rich_help_panel=TUNING),
    ] = None,
    equalize: Annotated[
        bool | None, typer.Option("--equalize/--no-equalize", help=_help("equalize"), rich_help_panel=TUNING)
    ] = None,
    reconstruct: Annotated[
        bool | None, typer.Option("--reconstruct/--no-reconstruct", help=_help("reconstruct"), rich_help_panel=TUNING)
    ] = None,
    iterations: Annotated[int | None, typer.Option(help=_help("iterations"), rich_help_panel=TUNING)] = None,
    recover: Annotated[int | None, typer.Option(help=_help("recover"), metavar="STEPS", rich_help_panel=TUNING)] = None,
    recover_minutes: Annotated[
        float | None, typer.Option(help=_help("recover_minutes"), metavar="M", rich_help_panel=TUNING)
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
    tolerance: Annotated[
        float | None,
        typer.Option(help=_help("tolerance"), show_default=_default("tolerance"), rich_help_panel=MEASURING),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Settings from a YAML file; flags come before it.", metavar="FILE", rich_help_panel=RECIPES),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save-recipe", help="Write the settings to a YAML file.", metavar="FILE", rich_help_panel=RECIPES
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="One setting by its name, such as seed=1.", metavar="NAME=VALUE", rich_help_panel=RECIPES
        ),
    ] = None,
) -> None:
    """Compress a network for a device: an engine, and a report that proves what it executes, costs and gains."""
    flags = {
        "checkpoint": checkpoint,
        "device": device,
        "data": data,
        "eval_data": eval_data,
        "max_drop": max_drop,
        "runtime": runtime,
        "out": out,
        "model": model,
        "scale": scale,
        "seed": seed,
        "calibration_count": calibration_count,
        "calibration_size": calibration_size,
        "precision": precision,
        "sparsity": sparsity,
        "narrow": narrow,
        "sparsity_method": sparsity_method,
        "sparsity_share": sparsity_share,
        "placement": placement,
        "range_method": range_method,
        "equalize": equalize,
        "reconstruct": reconstruct,
        "iterations": iterations,
        "recover": recover,
        "recover_minutes": recover_minutes,
        "threads": threads,
        "input_size": input_size,
        "measure_seconds": measure_seconds,
        "tolerance": tolerance,
    }
    if resume and overwrite:
        raise UsageError("--resume continues a run and --overwrite removes it; give one of them")
    base = Recipe({}) if recipe is None else load_recipe(recipe)
    request = resolve(base, flags, assignments or ())
    if reconstruct and request.precision is not Precision.INT8:
        raise UsageError(
            f"--reconstruct learns how integers are rounded; leave it out, or --precision {request.precision}"
        )
    request.check_inputs()
    with showing_progress():
        if save is not None:
            save_recipe(save, request)
            progress.note(f"recipe written to {save}")
        if dry_run:
            preview(request, as_json)
        else:
            _warn_of_other_files(base, request)
            carry_out(request, resume=resume, overwrite=overwrite, as_json=as_json)


def resolve(base: Recipe, flags: Mapping[str, Any], assignments: list[str] | tuple[str, ...]) -> CompressRequest:
    """The request: a recipe's settings, over them the flags that were given, over them each `--set`."""
    given = {name: value for name, value in flags.items() if value is not None}
    return CompressRequest.model_validate(apply_settings({**base.settings, **given}, assignments))


def preview(request: CompressRequest, as_json: bool) -> None:
    """Print what a run would do."""
    from bitwright.runs.preview import preview as look_ahead

    plan = look_ahead(request)
    write_line(plan.model_dump_json(indent=2) if as_json else "\n".join(plan.lines()))


def carry_out(request: CompressRequest, *, resume: bool, overwrite: bool, as_json: bool) -> None:
    """Run the job and print its result; a result that breaks a promise is printed before its error goes on."""
    from bitwright.runs.compress import compress as run_job
    from bitwright.runs.followers import follow, follows

    if follows():
        follow(request)
        return
    try:
        run_job(request, resume=resume, overwrite=overwrite)
    except (VerificationError, ConstraintError):
        if (request.run_folder / "report.json").is_file():
            show_result(request.run_folder, as_json)
        raise
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped; continue with: {request.command_line()} --resume") from error
    show_result(request.run_folder, as_json)


def show_result(run: Path, as_json: bool) -> None:
    """Print the report of a run folder: its table, or the text of report.json."""
    path = run / "report.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{run} holds no report: {path} cannot be read ({error.strerror})") from error
    if as_json:
        write_line(text)
        return
    from pydantic import ValidationError
    from rich.console import Console

    from bitwright.report import Report, print_result

    try:
        report = Report.from_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise UsageError(f"{path} is damaged: {where}: {first['msg']}; run `bitwright report {run}`") from error
    print_result(report, Console(), run / "report.html")


def _warn_of_other_files(base: Recipe, request: CompressRequest) -> None:
    """A recipe that a run wrote holds the hashes of its files; a replay on others gives another result."""
    if base.inputs is None:
        return
    from bitwright.runs.inputs import InputHashes

    here = InputHashes.of(request)
    changed = [name for name in InputHashes.model_fields if getattr(here, name) != getattr(base.inputs, name)]
    if changed:
        progress.note(f"warning: not a replay, these differ from the run that wrote the recipe: {', '.join(changed)}")
