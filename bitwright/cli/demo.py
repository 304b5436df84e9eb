"""`bitwright demo`: the main job on a network and pictures that come with the installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.compress import carry_out
from bitwright.cli.output import JsonFlag, showing_progress
from bitwright.foundation import progress
from bitwright.foundation.errors import DeviceError


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the pictures and the run.")] = Path("runs/demo"),
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Device profile; without it, this machine's.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compress a small network that comes with bitwright for this machine: no download, a few minutes."""
    from bitwright.runs.request import CompressRequest
    from workloads.embedded.pictures import write_pictures

    chosen = device or _this_machine()
    pictures = out / "pictures"
    with showing_progress():
        progress.note(f"device profile {chosen}, pictures in {pictures}")
        write_pictures(pictures)
        request = CompressRequest(
            checkpoint=_embedded_network(),
            device=chosen,
            data=pictures / "calibration",
            eval_data=pictures / "evaluation",
            max_drop=0.1,
            out=out / "run",
            calibration_count=64,
        )
        progress.note(request.command_line())
        carry_out(request, resume=False, overwrite=True, as_json=as_json)


def _embedded_network() -> Path:
    import workloads.embedded

    return Path(workloads.embedded.__path__[0], "plain_x4.safetensors")


def _this_machine() -> str:
    """The profile that fits this machine best, with a runtime that engines can be built for."""
    from deploy.engine import Runtime
    from hw_profiles import detect_host, match_host

    host = detect_host()
    buildable = {runtime.value for runtime in Runtime}
    for match in match_host(host):
        if any(runtime.engine in buildable for runtime in match.usable):
            return match.profile.id
    raise DeviceError(f"no device profile fits this machine ({host.cpu_model}); give --device, see: bitwright devices")
