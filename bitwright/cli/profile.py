"""`bitwright profile`: measure how long this machine takes for each kernel that a runtime executes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.failures import StoppedError
from bitwright.cli.output import JsonFlag, showing_progress, write_line
from bitwright.foundation.errors import UsageError


def profile(
    device: Annotated[
        str, typer.Option(metavar="NAME", help="Device profile: a name from `bitwright devices`, or a YAML file.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="TABLE.jsonl", help="Table to write; what it has already is not measured again.")
    ],
    checkpoints: Annotated[
        list[Path] | None, typer.Argument(metavar="[CHECKPOINT]...", help="Networks to profile.", show_default=False)
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(metavar="R", help="Runtime; without it, the first of the profile that is installed.")
    ] = None,
    grid: Annotated[
        bool | None,
        typer.Option(
            "--grid/--no-grid",
            help="Profile synthetic networks that cover the shapes of super-resolution.",
            show_default="only without checkpoints",
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="HxW,...", help="Heights x widths of the input.", show_default="64x64,128x128; grid: four"
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of each engine.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Timed seconds of each engine, about.")] = 2.0,
    redo_noisy: Annotated[
        bool, typer.Option("--redo-noisy", help="Measure again what was measured while others kept the machine busy.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(metavar="PKG.MOD:FACTORY", help="Factory of a network that is not recognised.")
    ] = None,
    scale: Annotated[
        int | None, typer.Option(min=1, max=16, help="Enlargement factor, where the weights alone do not tell.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be measured, and do nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure the kernels that networks execute on this machine, and the cost of each precision boundary.

    Every line is on the disk as soon as it is measured: stop at any moment, and the same command goes on.
    """
    from bitwright.runs.options import parse_size
    from bitwright.runs.profile_summary import ProfileRequest

    request = ProfileRequest(
        checkpoints=tuple(checkpoints or ()),
        device=device,
        runtime=runtime,
        out=out,
        grid=not checkpoints if grid is None else grid,
        sizes=None if sizes is None else tuple(parse_size(size, "--sizes") for size in sizes.split(",")),
        threads=threads,
        seconds=seconds,
        redo_noisy=redo_noisy,
        model=model,
        scale=scale,
    )
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; give the file of a table")
    from bitwright.runs.profile import preview
    from bitwright.runs.profile import profile as measure

    try:
        with showing_progress():
            summary = preview(request) if dry_run else measure(request)
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped; continue with: {shlex.join(['bitwright', *sys.argv[1:]])}") from error
    write_line(summary.model_dump_json(indent=2) if as_json else "\n".join(summary.lines()))
