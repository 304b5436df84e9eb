"""The contract of our ONNX files: names, sizes, metadata, nothing of the machine that wrote them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import GraphError
from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes
from compress.padding import pad_channels
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8
from compress.ranges import RangeMethod, set_ranges
from compress.statistics import collect
from deploy.onnx_export import INPUT, OPSET, OUTPUT, export_float, export_quantized
from deploy.onnx_plan import PLAN_KEY


class Body(nn.Module):
    """Widths that want padding, a layer called twice, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 10, 3, padding=1)
        self.shared = nn.Conv2d(10, 10, 3, padding=1)
        self.tail = nn.Conv2d(20, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.head(x))
        second = nn.functional.leaky_relu(self.shared(first), 0.05)
        third = torch.relu(self.shared(second) + first)
        return nn.functional.pixel_shuffle(self.tail(torch.cat([second, third], 1)), 2)


class Nested(nn.Module):
    """Puts the layers one level down, so that their names have dots."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    coarse = torch.rand(4, 3, 6, 8, generator=torch.Generator().manual_seed(5))
    return nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="module")
def compressed(pictures: Tensor) -> CompressedModel:
    torch.manual_seed(3)
    graph = capture(Nested().eval(), pictures[:1])
    layers = {name: LayerPlan(weight=W8, activation=A8) for name, _ in layer_nodes(graph)}
    plan = Plan(architecture="nested", device="d", runtime="r", float_precision="fp32",
                placement=Placement.INPUTS_OUTPUTS, layers=layers)  # fmt: skip
    statistics = collect(graph, pictures, {site.tensor.name for site in place(graph, plan)})
    return set_ranges(graph, plan, statistics, RangeMethod.MINMAX, RangeMethod.MINMAX)


@pytest.fixture(scope="module")
def path(compressed: CompressedModel, pictures: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_quantized(compressed, pictures[:1], path)
    return path


def session(path: Path, optimized: Path | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, x: Tensor) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = session(path).run([OUTPUT], {INPUT: x.numpy()})[0]
    return result


def test_names(path: Path, compressed: CompressedModel) -> None:
    graph = onnx.load(path).graph
    assert [n.name for n in graph.node if n.op_type == "Conv"] == [
        "body.head", "body.shared", "body.shared#2", "body.tail",
    ]  # fmt: skip
    integers = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    for name, weight in compressed.weights.items():
        assert np.array_equal(integers[f"{name}.integers"], weight.integers.numpy())
    assert [v.name for v in graph.input] == [INPUT]
    assert [v.name for v in graph.output] == [OUTPUT]


def test_opset_and_types(path: Path) -> None:
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert {o.domain: o.version for o in file.opset_import}[""] == OPSET
    assert not file.functions
    kinds = {i.name: i.data_type for i in file.graph.initializer}
    assert {kind for name, kind in kinds.items() if name.endswith("weight.integers")} == {onnx.TensorProto.INT8}
    assert {kind for name, kind in kinds.items() if ".bias." in name and name.endswith(".integers")} == {
        onnx.TensorProto.INT32
    }


def test_dynamic_sizes(path: Path, compressed: CompressedModel, pictures: Tensor) -> None:
    module = compressed.simulate()
    for x in (pictures, pictures[:1, :, :17, :9], pictures[:3, :, 2:3, :]):
        with torch.inference_mode():
            expected = module(x).numpy()
        found = run(path, x)
        assert found.shape == expected.shape == (x.shape[0], 3, 2 * x.shape[2], 2 * x.shape[3])
        step = float(max(p.scale for p in compressed.activations.values()))
        assert np.abs(found - expected).max() <= 3 * step
        assert np.abs(found - expected).mean() < 0.02 * step


def test_the_plan_travels(path: Path, compressed: CompressedModel) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert Plan.model_validate_json(metadata[PLAN_KEY]) == compressed.plan


def test_nothing_of_this_machine(path: Path, compressed: CompressedModel, pictures: Tensor, tmp_path: Path) -> None:
    export_float(compressed.graph, pictures[:1], tmp_path / "float.onnx")
    for file in (path, tmp_path / "float.onnx"):
        content = file.read_bytes()
        for trace in (b"site-packages", b".py", b'File "', b"/home", b"/usr", b"/tmp", b"torch.fx"):
            assert trace not in content, trace
        assert re.search(rb"(/[A-Za-z0-9_.-]{3,}){2,}", content) is None
        proto = onnx.load(file)
        assert not proto.doc_string
        assert not any(n.doc_string or n.metadata_props for n in proto.graph.node)


def test_same_input_same_bytes(path: Path, compressed: CompressedModel, pictures: Tensor, tmp_path: Path) -> None:
    export_quantized(compressed, pictures[:1], tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_float_file_computes_the_float_network(compressed: CompressedModel, pictures: Tensor, tmp_path: Path) -> None:
    export_float(compressed.graph, pictures[:1], tmp_path / "float.onnx")
    with torch.inference_mode():
        expected = compressed.graph(pictures).numpy()
    assert np.abs(run(tmp_path / "float.onnx", pictures) - expected).max() < 1e-5


def test_every_planned_convolution_is_an_integer_kernel(path: Path, tmp_path: Path) -> None:
    session(path, tmp_path / "optimized.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 4
    assert not {"Conv", "FusedConv"} & set(kinds)


def test_padded_model_has_equal_output(
    path: Path, compressed: CompressedModel, pictures: Tensor, tmp_path: Path
) -> None:
    padded, counts = pad_channels(compressed, 4)
    assert counts == {"body.head": (10, 12), "body.shared": (10, 12), "body.shared#2": (10, 12)}
    export_quantized(padded, pictures[:1], tmp_path / "padded.onnx")
    assert np.array_equal(run(tmp_path / "padded.onnx", pictures), run(path, pictures))
    shapes = {i.name: tuple(i.dims) for i in onnx.load(tmp_path / "padded.onnx").graph.initializer}
    assert shapes["body.shared.weight.integers"] == (12, 12, 3, 3)
    assert shapes["body.tail.weight.integers"] == (12, 24, 1, 1)


def test_a_failed_export_leaves_no_file(compressed: CompressedModel, pictures: Tensor, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="cannot be written as ONNX"):
        export_float(compressed.graph, pictures[:1, :2], tmp_path / "bad.onnx")
    assert list(tmp_path.iterdir()) == []
