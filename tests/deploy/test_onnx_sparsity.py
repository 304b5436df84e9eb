"""verify_nm on files that were exported, quantised, folded or broken on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from bitwright.foundation.errors import VerificationError
from compress.graph import capture, layer_nodes, set_tensor, tensor, weight_name
from compress.nm_pattern import Sparsity
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8
from compress.ranges import set_ranges
from compress.sparsity import Axis, LayerKind, WeightLayout, nm_mask
from compress.statistics import collect
from deploy.onnx_export import export_float, export_quantized
from deploy.onnx_sparsity import read_nm, verify_nm

PATTERN = Sparsity(n=2, m=4)
KINDS = {
    "conv": WeightLayout(LayerKind.CONV),
    "grouped": WeightLayout(LayerKind.CONV, 2),
    "up": WeightLayout(LayerKind.CONV_TRANSPOSE),
}
PATTERNS = dict.fromkeys(KINDS, PATTERN)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(self.grouped(torch.relu(self.conv(x)))))


def exported(path: Path, *, quantised: bool, wrong_axis: str | None = None) -> Path:
    torch.manual_seed(0)
    example = torch.rand(1, 8, 12, 12)
    graph = capture(Net(), example)
    for name, node in layer_nodes(graph):
        weight = tensor(graph, weight_name(node))
        mask = nm_mask(weight.abs(), PATTERN, KINDS[name])
        if name == wrong_axis:
            mask = nm_mask(weight.abs(), PATTERN, KINDS[name], Axis.OUTPUT)
        set_tensor(graph, weight_name(node), weight.masked_fill(~mask, 0.0))
    if not quantised:
        export_float(graph, example, path)
        return path
    layers = {n: LayerPlan(weight=W8, activation=A8, sparsity=PATTERN) for n, _ in layer_nodes(graph)}
    plan = Plan(architecture="net", device="any", runtime="onnxruntime", float_precision="fp32",
                placement=Placement.INPUTS_OUTPUTS, layers=layers)  # fmt: skip
    seen = collect(graph, torch.rand(4, 8, 12, 12), {site.tensor.name for site in place(graph, plan)})
    export_quantized(set_ranges(graph, plan, seen), example, path)
    return path


@pytest.mark.parametrize("quantised", [False, True])
def test_exported_files_keep_their_patterns(tmp_path: Path, quantised: bool) -> None:
    looked = verify_nm(exported(tmp_path / "net.onnx", quantised=quantised), PATTERNS)
    assert {x.layer for x in looked} == set(PATTERNS)
    assert all(x.legality is not None and x.legality.zeros >= 0.5 for x in looked)


def test_a_mask_along_the_wrong_axis_is_found(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.onnx", quantised=True, wrong_axis="conv")
    with pytest.raises(VerificationError, match="layer conv is not 2:4: a group has"):
        verify_nm(path, PATTERNS)


def test_weights_with_a_zero_point_are_refused(tmp_path: Path) -> None:
    """Trap: an asymmetric weight keeps its zeros as numbers other than the integer 0."""
    path = exported(tmp_path / "net.onnx", quantised=True)
    file = onnx.load(path)
    dequantize = next(
        n for n in file.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == "conv.weight.integers"
    )
    shifted = next(i for i in file.graph.initializer if i.name == dequantize.input[0])
    zeros = np.full(16, 3, np.int8)
    moved = np.clip(numpy_helper.to_array(shifted).astype(np.int32) + 3, -128, 127).astype(np.int8)
    shifted.CopyFrom(numpy_helper.from_array(moved, shifted.name))
    file.graph.initializer.append(numpy_helper.from_array(zeros, "shifted_zero"))
    dequantize.input[2] = "shifted_zero"
    onnx.save(file, path)
    with pytest.raises(VerificationError, match="zero point other than 0"):
        verify_nm(path, PATTERNS)


def test_a_missing_layer_is_an_error(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.onnx", quantised=False)
    with pytest.raises(VerificationError, match="layer gone is not 2:4: the file has no such layer"):
        verify_nm(path, {**PATTERNS, "gone": PATTERN})


def linear(path: Path, op: str, weight: np.ndarray, *, turned: bool = False) -> Path:
    """A file with one linear layer; its weight is (C, K) for MatMul, (K, C) for Gemm with transB."""
    nodes = [helper.make_node("Transpose", ["fc.weight"], ["w"], perm=[1, 0])] if turned else []
    source = "w" if turned else "fc.weight"
    more = {"transB": 1} if op == "Gemm" else {}
    nodes.append(helper.make_node(op, ["x", source], ["y"], **more))
    graph = helper.make_graph(
        nodes, "linear", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(weight, "fc.weight")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), path)
    return path


def test_linear_layers_are_read_along_the_axis_that_each_operator_sums_over(tmp_path: Path) -> None:
    """MatMul's constant is (C, K): the same numbers are legal in one operator and not in the other."""
    weight = np.zeros((8, 8), np.float32)
    weight[:, 0::2] = 1.0
    patterns = {"fc": PATTERN}
    assert read_nm(linear(tmp_path / "a.onnx", "Gemm", weight), patterns)[0].holds
    assert not read_nm(linear(tmp_path / "b.onnx", "MatMul", weight), patterns)[0].holds
    assert read_nm(linear(tmp_path / "c.onnx", "MatMul", weight.T.copy()), patterns)[0].holds
    assert read_nm(linear(tmp_path / "d.onnx", "MatMul", weight, turned=True), patterns)[0].holds


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("perm", [[1, 0, 2, 3], [0, 1, 3, 2], None])
def test_a_transposed_kernel_is_not_judged(tmp_path: Path, op: str, perm: list[int] | None) -> None:
    """Its groups lie along another axis than that of the stored weight, which alone could be looked at."""
    weight = np.zeros((8, 8, 1, 1), np.float32)
    weight[:, 0::2] = 1.0
    more = {} if perm is None else {"perm": perm}
    nodes = [helper.make_node("Transpose", ["up.weight"], ["w"], **more), helper.make_node(op, ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "turned", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(weight, "up.weight")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    found = read_nm(tmp_path / "net.onnx", {"up": PATTERN})[0]
    assert found.legality is None
    assert not found.holds
    assert "its weight is transposed by" in found.reason
