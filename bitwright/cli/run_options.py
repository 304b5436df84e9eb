"""Arguments that several verbs on a finished run share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.foundation.errors import UsageError

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `bitwright compress`.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads of each engine.")]
InputSizeOption = Annotated[str, typer.Option(metavar="HxW", help="Height x width of the input, in pixels.")]
SecondsOption = Annotated[float, typer.Option(min=0.1, help="Timed seconds of each engine, at least.")]
EnergyFlag = Annotated[
    bool, typer.Option("--energy", help="Also measure energy on the power rails of the machine, 10 s an engine.")
]
CudaGraphFlag = Annotated[
    bool, typer.Option("--cuda-graph", help="Time engines on a GPU as captured and replayed CUDA graphs.")
]
TableOption = Annotated[
    Path | None, typer.Option("--table", metavar="FILE", help="Latency table to add both times to, such as pi5.jsonl.")
]


def must_be_a_run(run: Path) -> None:
    """UsageError where `run` is not the folder of a finished run."""
    if not run.is_dir():
        raise UsageError(f"{run} is not a folder; give the run folder of `bitwright compress`")
    if not (run / "report.json").is_file():
        raise UsageError(
            f"{run} holds no finished run (no report.json); finish it with `bitwright compress ... --resume`"
        )
