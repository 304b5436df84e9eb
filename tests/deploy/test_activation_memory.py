"""Activations that are alive at once, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.graph import capture
from deploy.activation_memory import peak_activation_bytes
from deploy.onnx_export import export_float
from workloads.loading import load_checkpoint


class Skip(nn.Module):
    """Three input channels, a branch of 8 that waits for one of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 16, 3, padding=1)
        self.back = nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.narrow(x)
        return narrow + self.back(self.wide(narrow))


def test_the_peak_of_a_skip_connection(tmp_path: Path) -> None:
    example = torch.rand(1, 3, 16, 16)
    export_float(capture(Skip().eval(), example), example, tmp_path / "skip.onnx")
    # While `back` runs, the branch of 8, its input of 16 and its output of 8 are alive.
    expected = (8 + 16 + 8) * 4 * 20 * 30
    assert peak_activation_bytes(tmp_path / "skip.onnx", (1, 3, 20, 30)) == expected
    assert peak_activation_bytes(tmp_path / "skip.onnx", (2, 3, 20, 30)) == 2 * expected


def test_what_is_no_onnx_file_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "engine.plan").write_bytes(b"\xff\xfe not ONNX")
    assert peak_activation_bytes(tmp_path / "engine.plan", (1, 3, 8, 8)) is None
    assert peak_activation_bytes(tmp_path / "none.onnx", (1, 3, 8, 8)) is None


@pytest.mark.parametrize("name", ["rfdn_x4", "pan_x4"])
def test_sizes_that_the_graph_computes_are_inferred(data: Path, tmp_path: Path, name: str) -> None:
    loaded = load_checkpoint(data / "checkpoints" / f"{name}.pth")
    example = loaded.workload.example_input(32, 32)
    export_float(capture(loaded.module, example), example, tmp_path / "net.onnx")
    small, large = (peak_activation_bytes(tmp_path / "net.onnx", (1, 3, side, side)) for side in (64, 128))
    assert small is not None
    assert large is not None
    assert large == pytest.approx(4 * small, rel=0.05)
    # The output alone: three channels of float32, 16 for each pixel.
    assert large > 128 * 128 * 16 * 3 * 4
