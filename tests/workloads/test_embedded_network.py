"""The network that ships with the package: what it is, and that it is worth shipping."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import workloads.embedded
from workloads.loading import load_checkpoint
from workloads.super_resolution.bicubic import upscale
from workloads.super_resolution.network_format import to_network
from workloads.super_resolution.task import SuperResolution

NETWORK = Path(workloads.embedded.__path__[0], "plain_x4.safetensors")


def test_it_is_small_and_recognised():
    loaded = load_checkpoint(NETWORK)
    assert loaded.architecture == "plain"
    assert loaded.parameters == 70_256
    assert NETWORK.stat().st_size < 2_000_000


@pytest.mark.data
def test_it_beats_bicubic_by_more_than_a_decibel_on_set14(data: Path):
    loaded = load_checkpoint(NETWORK)
    task = loaded.workload
    assert isinstance(task, SuperResolution)
    samples = task.samples(data / "sr" / "test" / "Set14")
    bicubic = np.mean([task.psnr_y(to_network(upscale(sample.lr, 4), task.io), sample) for sample in samples])
    network = task.evaluate(loaded.module, samples).mean
    assert network == pytest.approx(27.910, abs=0.005)
    assert network - bicubic == pytest.approx(1.821, abs=0.01)
