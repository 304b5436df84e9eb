"""The GPU of a device profile, the one that torch sees here, and why an engine for a GPU cannot run here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from bitwright.foundation.errors import UsageError
from deploy.gpu_match import why_no_match, why_not_by_driver
from deploy.runtimes import Runtime
from hw_profiles import DeviceProfile

FP8_FROM = 8, 9
"""The first compute capability whose tensor cores multiply fp8."""
_ISA = re.compile(r"sm_(\d+)(\d)")


def compute_capability(device: DeviceProfile) -> str | None:
    """Compute capability of the device of a profile, such as 8.9; None where it is no NVIDIA GPU."""
    found = _ISA.fullmatch(device.arch.isa or "")
    return None if found is None else f"{found[1]}.{found[2]}"


def require_fp8(capability: str, profile: str) -> None:
    """UsageError where tensor cores of this compute capability have no fp8; `profile`: of the device, for the message.

    TensorRT-RTX 1.7 refuses the type below 8.9, and so does `torch._scaled_mm`.
    """
    if tuple(map(int, capability.split("."))) < FP8_FROM:
        raise UsageError(
            f"fp8 needs compute capability {'.'.join(map(str, FP8_FROM))} or higher, and {profile} has {capability}; "
            "compress for it with --precision int8"
        )


def gpu_here() -> str | None:
    """Compute capability of the GPU that torch would use, such as 8.9; None where it sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def why_not_here(runtime: Runtime, capability: str | None, profile: str) -> str | None:
    """Why an engine for this compute capability cannot run on this machine, in words; None where it can.

    torch uses GPUs where it was built for them, other runtimes what the driver has.
    """
    if runtime is not Runtime.TORCH:
        return why_not_by_driver(capability, profile)
    return why_no_match(capability, profile, gpu_here(), "there is no GPU here that torch can use")


@contextmanager
def without_tf32() -> Iterator[None]:
    """Convolutions and matrix products in fp32 keep all bits of their mantissa; TF32 has 10 of them.

    By default torch lets convolutions use it on GPUs, and the process may have let products.
    """
    import torch

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
