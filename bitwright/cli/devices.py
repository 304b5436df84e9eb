"""`bitwright devices`: the catalogue, one profile explained, or what fits this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from bitwright.cli.output import JsonFlag, write_line
from bitwright.foundation.errors import UsageError


def devices(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Explain this profile: a name, or a YAML file.")
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Which profiles fit this machine, and what runs here.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List the devices, explain one, or say which fits this machine and what will be native or emulated on it."""
    from rich.console import Console

    from bitwright.cli import device_json, device_pages
    from hw_profiles import detect_host, installed_runtimes, list_profiles, load_profile, match_host

    if name is not None and here:
        raise UsageError("give the name of a device or --here, not both")
    installed = installed_runtimes()
    console = Console()
    if name is not None:
        profile = load_profile(name)
        if as_json:
            write_line(json.dumps(device_json.one(profile, installed), indent=2))
        else:
            device_pages.explain(profile, installed, console)
    elif here:
        host = detect_host()
        matches = match_host(host, installed=installed)
        if as_json:
            write_line(json.dumps(device_json.here(host, matches, installed), indent=2))
        else:
            device_pages.here(host, matches, installed, console)
    elif as_json:
        write_line(json.dumps([device_json.row(profile, installed) for profile in list_profiles()], indent=2))
    else:
        device_pages.catalogue(list_profiles(), installed, console)
