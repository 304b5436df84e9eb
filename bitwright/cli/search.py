"""`bitwright search quantnas`: find a network for a budget, and train it; `eqnet`: one network for many devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.failures import resumable
from bitwright.cli.output import JsonFlag, showing_progress, write_line
from bitwright.cli.search_eqnet import eqnet

app = typer.Typer(help="Search for a network or for the precision of its layers, with training.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Keep the name of the method as a command of its own."""


@app.command("quantnas")
def quantnas(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of pictures to search and train on.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder.")],
    space: Annotated[
        str | None, typer.Option(metavar="rfdn|basic|FILE", help="Search space; without it, the preset's.")
    ] = None,
    preset: Annotated[str, typer.Option(metavar="NAME", help="paper-a, paper-b or smoke.")] = "paper-b",
    device: Annotated[str | None, typer.Option(metavar="NAME", help="Device profile that the network is for.")] = None,
    runtime: Annotated[str | None, typer.Option(metavar="R", help="Runtime on the device.")] = None,
    cost: Annotated[
        str | None,
        typer.Option(metavar="latency|bitops", help="What is to be small; latency with --device, else bitops."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COST", help="Largest cost of the whole network, ms or BitOps (4.6G); repeat for a front."
        ),
    ] = None,
    penalty: Annotated[
        list[float] | None,
        typer.Option(metavar="ETA", help="Fixed weight of the relative cost in place of budgets; repeat for a front."),
    ] = None,
    sweep: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Let Optuna choose N penalties, between two of --penalty; run it in several processes with --resume.",
        ),
    ] = None,
    bits: Annotated[str | None, typer.Option(metavar="4,8", help="Bit widths to choose from; 32: float.")] = None,
    width: Annotated[int | None, typer.Option(help="Channels of the space.")] = None,
    cells: Annotated[int | None, typer.Option(help="Cells of the space.")] = None,
    end_bits: Annotated[
        int, typer.Option(help="Least bit width of the layers that read or make the picture; 0: any.")
    ] = 8,
    fixed_bits: Annotated[int | None, typer.Option(help="Bit width of what is not searched.")] = None,
    bitops_exponent: Annotated[
        int, typer.Option(metavar="2|1", help="Power of the bit width in BitOps; 1 for an ablation.")
    ] = 2,
    bitops_weight: Annotated[
        float, typer.Option(metavar="W", help="Weight of BitOps beside latency, each over its own start.")
    ] = 0.0,
    table: Annotated[
        Path | None, typer.Option(metavar="TABLE.jsonl", help="Latency table of `bitwright profile`, before estimates.")
    ] = None,
    input_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="LR size that cost is counted at; 32x32 bitops, 128x128 latency.")
    ] = None,
    eval_data: Annotated[
        Path | None, typer.Option("--eval", metavar="DIR", help="Folder of pictures that quality is reported on.")
    ] = None,
    retrain: Annotated[bool, typer.Option("--retrain/--no-retrain", help="Train what was found.")] = True,
    compress: Annotated[
        bool, typer.Option("--compress", help="Then compress it for --device: engine, audit, quality, latency.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write scalars for TensorBoard into RUN/POINT/events.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 777,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting: epochs=5, quant.mode=direct, retrain.epochs=5."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Search the operation and the bit width of every layer together, by gradient against quantisation noise.

    Memory and time of a step are told before the search starts. Stop it at any moment, and --resume goes on to the
    same result.
    """
    from bitwright.foundation.errors import UsageError
    from bitwright.runs.options import parse_size
    from bitwright.runs.quantnas import search
    from bitwright.runs.quantnas_request import QuantnasRequest, assigned, quantity

    if cost not in (None, "latency", "bitops"):
        raise UsageError(f"--cost is latency or bitops, not {cost}")
    if bits is not None and not all(part.strip().isdigit() for part in bits.split(",")):
        raise UsageError(f"--bits {bits}: expected bit widths such as 4,8")
    if bitops_exponent not in (1, 2):
        raise UsageError(f"--bitops-exponent is 2, or 1 for an ablation, not {bitops_exponent}")
    request = QuantnasRequest.model_validate(
        {
            "data": data,
            "eval_data": eval_data,
            "out": out,
            "preset": preset,
            "space": space,
            "device": device,
            "runtime": runtime,
            "cost": cost,
            "budgets": tuple(quantity(text) for text in budget or ()),
            "penalties": tuple(penalty or ()),
            "sweep": sweep,
            "end_bits": end_bits,
            "fixed_bits": fixed_bits,
            "bitops_exponent": bitops_exponent,
            "bitops_weight": bitops_weight,
            "tensorboard": tensorboard,
            "width": width,
            "cells": cells,
            "bits": None if bits is None else tuple(int(part) for part in bits.split(",")),
            "table": table,
            "input_size": None if input_size is None else parse_size(input_size),
            "retrain": retrain,
            "compress": compress,
            "seed": seed,
            **assigned(assignments or ()),
        }
    )
    with resumable(), showing_progress():
        result = search(request, resume=resume)
    write_line(result.model_dump_json(indent=1) if as_json else "\n".join(result.lines()))


app.command("eqnet")(eqnet)
