"""`bundle` and `import`, and the side of `measure` that works on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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

if TYPE_CHECKING:
    from bitwright.runs.measure import MeasureSummary


def bundle(
    run: RunArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write, such as rfdn.pyz.")],
    threads: ThreadsOption = 1,
    input_size: InputSizeOption = "128x128",
    seconds: SecondsOption = 5.0,
    energy: EnergyFlag = False,
    cuda_graph: CudaGraphFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Write one file that measures a run's engine on a machine to which it is carried by hand.

    It holds the engine, its float baseline, an input and a runner, and needs nothing there but Python, numpy and the
    runtime: `python3 FILE`.
    """
    from bitwright.runs.options import parse_size

    size = parse_size(input_size)
    must_be_a_run(run)
    from bitwright.runs.elsewhere import bundle as write

    with showing_progress():
        written = write(
            run, out, threads=threads, input_size=size, seconds=seconds, energy=energy, cuda_graph=cuda_graph
        )
    write_line(written.model_dump_json(indent=2) if as_json else "\n".join(written.lines()))


def take_back(
    source: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="Samples of a bundle, or the folder that it wrote them to.")
    ],
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run folder, if it is not where it was when it was bundled.")
    ] = None,
    table: TableOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take back what a bundle has measured on another machine, into the `measurements/` of its run.

    Exit 4 where the engine did not execute there as planned.
    """
    from bitwright.runs.elsewhere import take_back as take

    with showing_progress():
        timed = take(source, run, table)
    write_line(timed.model_dump_json(indent=2) if as_json else "\n".join(timed.lines()))
    timed.require()


def measure_there(
    run: Path,
    address: str,
    threads: int,
    size: tuple[int, int],
    seconds: float,
    *,
    python: str | None,
    folder: str | None,
    ssh_config: Path | None,
    energy: bool,
    cuda_graph: bool,
    table: Path | None,
) -> MeasureSummary:
    """Measure a run on the machine at `address`."""
    from bitwright.runs.elsewhere import measure_on
    from deploy.remote import transport_to

    return measure_on(
        run,
        transport_to(address, ssh_config),
        threads=threads,
        input_size=size,
        seconds=seconds,
        python=python or "python3",
        folder=folder,
        table=table,
        energy=energy,
        cuda_graph=cuda_graph,
    )
