"""The GPU of this machine as torch sees it, and what an engine for another one is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def gpu_here() -> str | None:
    """Compute capability of the GPU that torch would use, such as 8.9; None where it sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def why_not_here(compute_capability: str | None, profile: str) -> str | None:
    """Why an engine for this architecture cannot run on this machine, in words; None where it can."""
    here = gpu_here()
    if here is not None and here == compute_capability:
        return None
    needs = f"it needs an NVIDIA GPU of compute capability {compute_capability} ({profile})"
    if here is None:
        return f"{needs} and there is no GPU here that torch can use"
    return (
        f"{needs} and the GPU here has {here}; rebuild it for this one: compress again with the --device that "
        "`bitwright devices --here` names"
    )


@contextmanager
def without_tf32() -> Iterator[None]:
    """Convolutions in fp32 keep all bits of their mantissa; torch's default on GPUs is 10 of them."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
