"""`bitwright upscale`: enlarge pictures with the engine of a run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.failures import StoppedError
from bitwright.cli.output import JsonFlag, showing_progress, write_line
from bitwright.foundation.errors import DataError


def upscale(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder of `bitwright compress` or `curve`, or an engine folder.")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A picture, or a folder of pictures or of the frames of a video.")
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", help="Folder of the results, or the .png file of one picture.")],
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads of the engine.", show_default="all cores")
    ] = None,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Resident memory at most, such as 800M.")] = "2G",
    tile: Annotated[
        int | None,
        typer.Option(min=1, help="Side of a tile in input pixels.", show_default="by the network's halo and --memory"),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(min=0, help="Input pixels around a tile that it reads too.", show_default="the network's halo"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Tiles that the engine takes at once.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what others have put there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Enlarge pictures with the engine of a run, tile by tile, and write them as PNG.

    Stop it at any moment: each result is written as a whole or not at all, and the same command goes on. Pictures that
    cannot be read are named and skipped, and the command then ends with code 2.
    """
    from bitwright.runs.upscale_request import UpscaleRequest, parse_bytes

    request = UpscaleRequest.of(
        run=run,
        source=source,
        out=out,
        threads=threads,
        memory=parse_bytes(memory),
        tile=tile,
        overlap=overlap,
        batch=batch,
        overwrite=overwrite,
    )
    from bitwright.runs.upscale import upscale as enlarge

    try:
        with showing_progress():
            summary = enlarge(request)
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped; continue with: {shlex.join(['bitwright', *sys.argv[1:]])}") from error
    write_line(summary.model_dump_json(indent=2) if as_json else "\n".join(summary.lines()))
    complaint = summary.complaint()
    if complaint is not None:
        raise DataError(complaint)
