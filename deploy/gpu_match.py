"""Whether the GPU of this machine is the one that an engine was compiled for, in words. Needs nothing but Python."""

from __future__ import annotations

from bitwright.foundation.errors import DeviceError
from deploy.cuda_library import driver_gpu


def why_no_match(capability: str | None, profile: str, here: str | None, absent: str) -> str | None:
    """Why an engine for this compute capability cannot run where the GPU has `here`; None where it can.

    `absent`: what is said where there is no GPU.
    """
    if here is not None and here == capability:
        return None
    needs = f"it needs an NVIDIA GPU of compute capability {capability} ({profile})"
    if here is None:
        return f"{needs} and {absent}"
    return f"{needs} and the GPU here has {here}; for this one, compress with a --device of compute capability {here}"


def why_not_by_driver(capability: str | None, profile: str) -> str | None:
    """Why an engine for this compute capability cannot run here, by what NVIDIA's driver has; None where it can."""
    here, absent = None, ""
    try:
        here = driver_gpu()
    except DeviceError as error:
        absent = f"there is no GPU here: {error}"
    return why_no_match(capability, profile, here, absent)
