"""The GPU of this machine as torch sees it, and what an engine for another one is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from bitwright.foundation.errors import UsageError
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


def why_not_here(capability: str | None, profile: str) -> str | None:
    """Why an engine for this compute capability cannot run on this machine, in words; None where it can."""
    here = gpu_here()
    if here is not None and here == capability:
        return None
    needs = f"it needs an NVIDIA GPU of compute capability {capability} ({profile})"
    if here is None:
        return f"{needs} and there is no GPU here that torch can use"
    return (
        f"{needs} and the GPU here has {here}; for this one, compress with the --device that "
        "`bitwright devices --here` names"
    )


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
