"""A machine of CI whose GPU torch does not see fails, rather than skip what runs on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.marks import gpu_isa


def test_a_gpu_that_torch_does_not_see_is_an_error_in_ci_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "nvidia0"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CI", "true")
    assert gpu_isa(device) is None
    device.touch()
    with pytest.raises(RuntimeError, match=r"nvidia0 is here and torch .* sees no GPU"):
        gpu_isa(device)
    monkeypatch.delenv("CI")
    assert gpu_isa(device) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (12, 0))
    assert gpu_isa(device) == "sm_120"
