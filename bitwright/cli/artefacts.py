"""`export`, `verify`, `measure` and `report`: what can be done with a checkpoint or a finished run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.compress import show_result
from bitwright.cli.output import JsonFlag, showing_progress, write_line
from bitwright.foundation.errors import UsageError


class ExportFormat(StrEnum):
    """The formats that a network can be exported to."""

    ONNX = "onnx"


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `bitwright compress`.")]


def export(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|CHECKPOINT", help="Run folder (its compressed network) or a checkpoint.")
    ],
    form: Annotated[ExportFormat, typer.Option("--format", help="Format of the file.")] = ExportFormat.ONNX,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write; without it, beside the source.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="PKG.MOD:FACTORY", help="Factory of a network that is not recognised.")
    ] = None,
    scale: Annotated[int | None, typer.Option(help="Enlargement factor, where the weights alone do not tell.")] = None,
) -> None:
    """Write a network as a file for other tools, with dynamic height and width."""
    if not source.exists():
        raise UsageError(f"{source} does not exist; give a run folder or a checkpoint")
    from bitwright.runs.export import export as write

    with showing_progress():
        path = write(source, form=form.value, out=out, model=model, scale=scale)
    write_line(str(path))


def verify(
    run: RunArgument,
    eval_data: Annotated[
        Path | None, typer.Option("--eval", metavar="DIR", help="Folder of pictures; without it, those of the run.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a run's engine again: same file, planned precisions executed, same output as torch. Exit 4 if not."""
    _must_be_a_run(run)
    from bitwright.runs.verify import verify as check

    with showing_progress():
        summary = check(run, eval_data)
    write_line(summary.model_dump_json(indent=2) if as_json else "\n".join(summary.lines()))


def measure(
    run: RunArgument,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each engine.")] = 1,
    input_size: Annotated[str, typer.Option(metavar="HxW", help="Height x width of the input, in pixels.")] = "128x128",
    seconds: Annotated[float, typer.Option(min=0.1, help="Timed seconds of each engine, at least.")] = 5.0,
    as_json: JsonFlag = False,
) -> None:
    """Time a run's engine against its float baseline again, side by side."""
    from bitwright.runs.request import parse_size

    size = parse_size(input_size)
    _must_be_a_run(run)
    from bitwright.runs.measure import measure as time_it

    with showing_progress():
        timed = time_it(run, threads=threads, input_size=size, seconds=seconds)
    write_line(timed.model_dump_json(indent=2) if as_json else "\n".join(timed.lines()))


def report(
    run: RunArgument,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a run's report.html again from its report.json, and print the result."""
    _must_be_a_run(run)
    from bitwright.runs.report import rebuild

    page = rebuild(run)
    show_result(run, as_json)
    if browse:
        typer.launch(page.absolute().as_uri())


def _must_be_a_run(run: Path) -> None:
    if not run.is_dir():
        raise UsageError(f"{run} is not a folder; give the run folder of `bitwright compress`")
    if not (run / "report.json").is_file():
        raise UsageError(
            f"{run} holds no finished run (no report.json); finish it with `bitwright compress ... --resume`"
        )
