"""What padding may break: patterns of layers that read channels with zeros between them, and nothing else."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from bitwright.foundation.errors import VerificationError
from bitwright.runs.sparsity import broken_by_padding
from compress.graph import capture, layer_nodes, set_tensor, tensor, weight_name
from compress.nm_pattern import Sparsity
from compress.padding import pad_channels
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8
from compress.ranges import set_ranges
from compress.statistics import collect
from deploy.onnx_export import export_quantized

PATTERN = Sparsity(n=2, m=4)
PATTERNS = dict.fromkeys(("left", "right", "joined"), PATTERN)
LENGTHS = {"left": 8, "right": 8, "joined": 12}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.joined = nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.joined(torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1))


def exported(path: Path) -> Path:
    """Two layers of 6 channels, widened to 8 each, and one that reads both: its channels 6 to 9 become one group."""
    torch.manual_seed(0)
    example = torch.rand(1, 8, 6, 6)
    graph = capture(Net(), example)
    for _, node in layer_nodes(graph):
        weight = tensor(graph, weight_name(node))
        kept = torch.tensor([1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0])[: weight.shape[1]]
        set_tensor(graph, weight_name(node), weight * kept.reshape(1, -1, 1, 1))
    layers = {name: LayerPlan(weight=W8, activation=A8, sparsity=PATTERN) for name, _ in layer_nodes(graph)}
    plan = Plan(architecture="net", device="any", runtime="onnxruntime", float_precision="fp32",
                placement=Placement.INPUTS_OUTPUTS, layers=layers)  # fmt: skip
    seen = collect(graph, torch.rand(4, 8, 6, 6), {site.tensor.name for site in place(graph, plan)})
    padded, widths = pad_channels(set_ranges(graph, plan, seen), 8)
    assert widths == {"left": (6, 8), "right": (6, 8)}
    export_quantized(padded, example, path)
    return path


def test_a_layer_that_reads_widened_channels_is_told_and_no_error(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.onnx")
    assert broken_by_padding(path, PATTERNS, LENGTHS) == {
        "joined": "a group has 4 values other than zero; 2:4 allows 2"
    }


def test_padding_excuses_no_layer_that_it_does_not_reach(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.onnx")
    with pytest.raises(VerificationError, match=r"layer gone of engine/net\.onnx is not 2:4: the file has no such"):
        broken_by_padding(path, {**PATTERNS, "gone": PATTERN}, {**LENGTHS, "gone": 4})
    file = onnx.load(path)
    weight = next(i for i in file.graph.initializer if i.name == "left.weight.integers")
    values = numpy_helper.to_array(weight).copy()
    values[0] = 1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(file, path)
    with pytest.raises(VerificationError, match=r"layer left of .* is not 2:4: a group has 4 values"):
        broken_by_padding(path, PATTERNS, LENGTHS)
