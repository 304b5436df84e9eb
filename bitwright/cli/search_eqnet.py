"""`bitwright search eqnet`: one supernet, a plan for each device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.failures import resumable
from bitwright.cli.output import JsonFlag, showing_progress, write_line


def eqnet(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Trained float network.")],
    device: Annotated[list[str], typer.Option(metavar="NAME", help="Device profile; repeat for several.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of pictures to train, calibrate and choose on.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder.")],
    eval_data: Annotated[
        Path | None, typer.Option("--eval", metavar="DIR", help="Folder of pictures that quality is reported on.")
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(metavar="2,4,8", help="Bit widths of the supernet; by default 2 to 8, and 4 to 8 for images."),
    ] = None,
    pinned: Annotated[
        list[str] | None, typer.Option(metavar="LAYER", help="Layer with 8 bits only; by default the first and last.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps of the supernet.")] = 3000,
    samples: Annotated[int, typer.Option(help="Subnets that the predictor learns from.")] = 800,
    candidates: Annotated[int, typer.Option(help="Candidates of the multi-objective search.")] = 20_000,
    generations: Annotated[int, typer.Option(help="Generations of the genetic search.")] = 500,
    budget: Annotated[
        float | None, typer.Option(metavar="MS", help="Largest latency, on devices whose profile predicts one.")
    ] = None,
    budget_bitops: Annotated[
        str | None, typer.Option(metavar="4.6G", help="Largest BitOps, on devices whose profile predicts no latency.")
    ] = None,
    budget_size: Annotated[
        str | None,
        typer.Option(metavar="200k", help="Largest size of all weights, at the bits that they have, in bytes."),
    ] = None,
    measure_seconds: Annotated[float, typer.Option(help="Timed seconds of an engine that runs here, at least.")] = 3.0,
    emulated: Annotated[
        bool, typer.Option("--emulated", help="Also widths that a runtime emulates: smaller, not faster.")
    ] = False,
    calibration_count: Annotated[int, typer.Option(help="Training images that batch norms are calibrated on.")] = 2048,
    model: Annotated[str | None, typer.Option(metavar="P.M:F", help="Factory of an unknown network.")] = None,
    scale: Annotated[int | None, typer.Option(help="Enlargement, where the weights do not tell.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A training setting, such as share=0.25.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train one network for every quantisation form and width, and read out the best plan for each device.

    Stop it at any moment, and --resume goes on where it was; it may also name other devices, for the same supernet.
    """
    from bitwright.foundation.errors import UsageError
    from bitwright.runs.eqnet import search
    from bitwright.runs.eqnet_request import EqnetRequest
    from bitwright.runs.quantnas_request import assigned, quantity

    if bits is not None and not all(part.strip().isdigit() for part in bits.split(",")):
        raise UsageError(f"--bits {bits}: expected bit widths such as 2,4,8")
    request = EqnetRequest.model_validate(
        {
            "checkpoint": checkpoint,
            "devices": tuple(device),
            "data": data,
            "eval_data": eval_data,
            "out": out,
            "bits": None if bits is None else tuple(int(part) for part in bits.split(",")),
            "pinned": None if pinned is None else tuple(pinned),
            "steps": steps,
            "samples": samples,
            "candidates": candidates,
            "generations": generations,
            "budget": budget,
            "budget_bitops": None if budget_bitops is None else quantity(budget_bitops),
            "budget_size": None if budget_size is None else quantity(budget_size),
            "measure_seconds": measure_seconds,
            "emulated": emulated,
            "calibration_count": calibration_count,
            "model": model,
            "scale": scale,
            "seed": seed,
            "settings": assigned(assignments or ())["search_settings"],
        }
    )
    with resumable(), showing_progress():
        result = search(request, resume=resume)
    write_line(result.model_dump_json(indent=1) if as_json else "\n".join(result.lines()))
