"""The verbs, and the one place where an error becomes a line on stderr and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import bitwright
from bitwright.cli import artefacts, compress, curve, demo, devices, elsewhere, interrupts, profile, search, upscale
from bitwright.cli.failures import explain

app = typer.Typer(
    name="bitwright",
    help="Compress a trained network for a device, and prove what the engine executes, costs and gains.",
    epilog="Exit codes: 0 done, 2 usage, 3 limit not reached, 4 verification failed, 5 device unreachable.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("devices")(devices.devices)
app.command("compress")(compress.compress)
app.command("curve")(curve.curve)
app.command("export")(artefacts.export)
app.command("unpack")(artefacts.unpack)
app.command("verify")(artefacts.verify)
app.command("measure")(artefacts.measure)
app.command("bundle")(elsewhere.bundle)
app.command("import")(elsewhere.take_back)
app.command("report")(artefacts.report)
app.command("profile")(profile.profile)
app.add_typer(search.app, name="search")
app.command("upscale")(upscale.upscale)
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(bitwright.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    del version


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; all errors end here."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with interrupts.kept():
            code = app(given, prog_name="bitwright", standalone_mode=False)
    except BaseException as error:
        failure = explain(error)
        if failure is None:
            raise
        sys.stderr.write(f"{failure.line}\n")
        return failure.code
    return code if isinstance(code, int) else 0
