"""The GPU of this machine as a device, and one that is said to be here."""

from __future__ import annotations

import pytest
import torch

from hw_profiles import DeviceProfile, load_profile
from tests.marks import GPU


def device_here() -> DeviceProfile:
    """A profile of the GPU of this machine."""
    known = load_profile("h100-sxm")
    return known.model_copy(update={"arch": known.arch.model_copy(update={"isa": GPU})})


def with_gpu(monkeypatch: pytest.MonkeyPatch, *capability: int) -> None:
    """Let torch say that there is a GPU of this compute capability. Nothing runs on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
