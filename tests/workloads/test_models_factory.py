"""A user's own network through package.module:factory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.foundation.errors import CheckpointError, UsageError
from workloads.factory import build_from_factory
from workloads.loading import load_checkpoint
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.task import SuperResolution

SOURCE = """
from torch import nn
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.task import SuperResolution

def upscaler(): return nn.Sequential(nn.Conv2d(3, 27, 5, padding=2), nn.PixelShuffle(3))
def classifier(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
def pair(): return upscaler(), SuperResolution(SRFormat(3, Color.RGB, 255.0))
def denoiser(): return nn.Conv2d(3, 3, 3, padding=1)
def needy(width): return nn.Identity()
def wrong(): return {"a": 1}
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_network_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return name


def test_task_is_told_from_the_output(own: str) -> None:
    _, workload = build_from_factory(f"{own}:upscaler")
    assert isinstance(workload, SuperResolution)
    assert workload.io == SRFormat(3, Color.RGB, 1.0, halo=2)
    _, workload = build_from_factory(f"{own}:classifier")
    assert workload.io.classes == 6


def test_weights_go_into_the_users_network(own: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = nn.Sequential(nn.Conv2d(3, 27, 5, padding=2), nn.PixelShuffle(3))
    torch.save({"state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "w.pth")
    loaded = load_checkpoint(tmp_path / "w.pth", model=f"{own}:pair")
    assert loaded.workload.io.value_max == 255.0
    assert torch.equal(loaded.module[0].weight, trained[0].weight)
    with pytest.raises(CheckpointError, match="enlarges by 3, not by 2"):
        load_checkpoint(tmp_path / "w.pth", model=f"{own}:pair", scale=2)
    with pytest.raises(
        CheckpointError, match=r"2 missing: weight, bias; 2 unexpected: 0\.weight, 0\.bias|does not fit"
    ):
        load_checkpoint(tmp_path / "w.pth", model=f"{own}:classifier")


@pytest.mark.parametrize(
    ("attribute", "says"),
    [
        (":denoiser", "cannot tell the task"),
        (":needy", "without arguments"),
        (":wrong", "returned a dict"),
        (":number", "not a callable"),
        (":absent", "has no absent"),
        ("", "must look like package.module:factory"),
        ("_absent:f", "cannot import"),
    ],
)
def test_unusable_factories(own: str, attribute: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_from_factory(own + attribute)
