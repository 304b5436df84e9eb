"""A network that only spandrel knows is loaded through it; skipped where spandrel cannot be imported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitwright.foundation.errors import CheckpointError
from workloads.loading import load_checkpoint
from workloads.super_resolution.format import Color
from workloads.super_resolution.task import SuperResolution


@pytest.fixture
def compact(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    """A small network of an architecture that is none of ours, from spandrel's own class."""
    try:
        from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
    except (ImportError, RuntimeError) as error:
        # torchvision built for another torch fails to register its operators, which is no ImportError.
        pytest.skip(f"spandrel cannot be imported here: {error}")
    torch.manual_seed(0)
    network = SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=16, num_conv=2, upscale=2, act_type="prelu").eval()
    save_file(dict(network.state_dict()), tmp_path / "compact.safetensors")
    return tmp_path / "compact.safetensors", network


def test_a_network_that_spandrel_recognises_is_loaded(compact: tuple[Path, torch.nn.Module]) -> None:
    path, network = compact
    loaded = load_checkpoint(path)
    assert loaded.architecture == "compact"
    assert isinstance(loaded.workload, SuperResolution)
    assert loaded.workload.io.scale == 2
    assert loaded.workload.io.color is Color.RGB
    assert loaded.workload.io.value_max == 1.0
    x = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded.module(x), network(x))


def test_what_spandrel_does_not_know_either_is_refused(compact: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "nothing.safetensors")
