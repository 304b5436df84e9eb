"""Marks of tests that need what a machine may lack, each decided without the code under test."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch


def gpu_isa(device: Path = Path("/dev/nvidia0")) -> str | None:
    """The architecture of the GPU that torch uses, such as sm_89; None where it sees none.

    RuntimeError in CI where there is a GPU, as `device` tells, that torch does not see: it would skip what needs one.
    """
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return f"sm_{major}{minor}"
    if os.environ.get("CI") == "true" and device.exists():
        raise RuntimeError(f"{device} is here and torch {torch.__version__} sees no GPU; install a torch that has CUDA")
    return None


GPU = gpu_isa()
HAS_COMPILER = shutil.which("g++") is not None

needs_gpu = pytest.mark.skipif(GPU is None, reason="torch sees no GPU here")
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler: install g++")
needs_litert = pytest.mark.skipif(
    find_spec("ai_edge_litert") is None, reason="LiteRT is not installed: pip install 'bitwright[edge]'"
)
needs_tensorrt_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed: pip install 'bitwright[tensorrt-rtx]'"
)
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="this processor is no x86 one")
