"""`export`, `unpack`, `verify`, `measure` and `report`: what can be done with a checkpoint or a finished run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.compress import show_result
from bitwright.cli.elsewhere import measure_there
from bitwright.cli.output import JsonFlag, showing_progress, write_line
from bitwright.cli.run_options import (
    CudaGraphFlag,
    EnergyFlag,
    InputSizeOption,
    RunArgument,
    SecondsOption,
    TableOption,
    ThreadsOption,
    must_be_a_run,
)
from bitwright.foundation.errors import UsageError


class ExportFormat(StrEnum):
    """The formats that a network can be exported to."""

    ONNX = "onnx"
    QONNX = "qonnx"


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


def unpack(
    packed: Annotated[Path, typer.Argument(metavar="PACKED", help="packed.safetensors of a run.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write; without it, unpacked.safetensors beside it.")
    ] = None,
) -> None:
    """Write the model.safetensors that a packed file of N:M weights was made of, byte for byte."""
    if not packed.is_file():
        raise UsageError(f"{packed} is not a file; give packed.safetensors of a run")
    from compress.sparsity.pack_model import unpack_model

    target = out or packed.with_name("unpacked.safetensors")
    unpack_model(packed, target)
    write_line(str(target))


def verify(
    run: RunArgument,
    eval_data: Annotated[
        Path | None, typer.Option("--eval", metavar="DIR", help="Folder of pictures; without it, those of the run.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a run's engine again: same file, planned precisions executed, same output as torch. Exit 4 if not."""
    must_be_a_run(run)
    from bitwright.runs.verify import verify as check

    with showing_progress():
        summary = check(run, eval_data)
    write_line(summary.model_dump_json(indent=2) if as_json else "\n".join(summary.lines()))


def measure(
    run: RunArgument,
    threads: ThreadsOption = 1,
    input_size: InputSizeOption = "128x128",
    seconds: SecondsOption = 5.0,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Machine to measure on: ssh://[user@]host[:port], or adb:SERIAL; without it, this one.",
        ),
    ] = None,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="With --on: Python there, with numpy and the runtime.")
    ] = None,
    remote_folder: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="With --on: folder to work in there; by default .cache/bitwright, with adb /data/local/tmp/bitwright.",
        ),
    ] = None,
    ssh_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --on: configuration of ssh in place of the user's.")
    ] = None,
    table: TableOption = None,
    energy: EnergyFlag = False,
    cuda_graph: CudaGraphFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Time a run's engine against its float baseline again, side by side, here or on another machine.

    A measurement on another machine that was cut short goes on with the same command. Exit 4 where the engine did not
    execute there as planned.
    """
    from bitwright.runs.options import parse_size

    size = parse_size(input_size)
    must_be_a_run(run)
    from bitwright.runs.measure import measure as time_it

    with showing_progress():
        if on is not None:
            timed = measure_there(
                run,
                on,
                threads,
                size,
                seconds,
                python=python,
                folder=remote_folder,
                ssh_config=ssh_config,
                energy=energy,
                cuda_graph=cuda_graph,
                table=table,
            )
        elif python or remote_folder or ssh_config:
            raise UsageError("--python, --remote-folder and --ssh-config say something of the machine in --on; give it")
        else:
            timed = time_it(
                run,
                threads=threads,
                input_size=size,
                seconds=seconds,
                table=table,
                energy=energy,
                cuda_graph=cuda_graph,
            )
    write_line(timed.model_dump_json(indent=2) if as_json else "\n".join(timed.lines()))
    timed.require()


def report(
    run: RunArgument,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a run's report.html again from its report.json, and print the result."""
    must_be_a_run(run)
    from bitwright.runs.report import rebuild

    page = rebuild(run)
    show_result(run, as_json)
    if browse:
        typer.launch(page.absolute().as_uri())
