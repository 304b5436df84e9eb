"""The audit of QONNX: the bit width of each layer is read from the file's Quant nodes and held against the plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from torch import Tensor, fx, nn

from bitwright.foundation.errors import VerificationError
from compress.compressed import CompressedModel
from compress.graph import capture
from compress.plan import Placement
from compress.quantizers import W8
from deploy.audit import Audit, audit
from deploy.engine import Runtime
from deploy.engines import build_engine, load_engine
from deploy.onnx_export import export_qonnx, export_quantized
from tests.deploy.qonnx_helpers import FLOAT, layer, quantised

pytest.importorskip("qonnx", reason="qonnx is not installed: pip install 'bitwright[fpga]'")
pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def graph(network: nn.Module, inputs: Tensor) -> fx.GraphModule:
    return capture(network, inputs[:1])


@pytest.fixture(scope="module")
def model(graph: fx.GraphModule, inputs: Tensor) -> CompressedModel:
    others = {"body": layer(4), "body#2": layer(4, 2), "tail": FLOAT}
    return quantised(graph, inputs, layer(8), others)


@pytest.fixture(scope="module")
def file(model: CompressedModel, inputs: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audited") / "model.onnx"
    export_qonnx(model, inputs[:1], path)
    return path


def audited(path: Path, model: CompressedModel, folder: Path) -> Audit:
    build_engine(path, folder, runtime=Runtime.QONNX, profile="fpga-dataflow")
    return audit(load_engine(folder, threads=1), path, model.plan)


def changed(path: Path, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """The file after a change."""
    file = onnx.load(path)
    change(file)
    onnx.save(file, folder / "changed.onnx")
    return folder / "changed.onnx"


def set_bits(file: onnx.ModelProto, tensor: str, bits: int) -> None:
    """Give the Quant node that reads `tensor` another width."""
    quant = next(node for node in file.graph.node if node.op_type == "Quant" and node.input[0] == tensor)
    name = f"{tensor}.other_bits"
    file.graph.initializer.append(numpy_helper.from_array(np.array(float(bits), dtype=np.float32), name))
    quant.input[3] = name


def test_a_mixed_plan_passes_by_name(model: CompressedModel, file: Path, tmp_path: Path) -> None:
    result = audited(file, model, tmp_path)
    assert [(found.layer, found.planned, found.executed) for found in result.layers] == [
        ("head", "int8", "int8"), ("body", "int4", "int4"), ("body#2", "w4a2", "w4a2"), ("tail", "fp32", "fp32")
    ]  # fmt: skip
    assert {found.kernel for found in result.layers} == {"ai.onnx.Conv"}
    assert result.executed == {"int8": 1, "int4": 1, "w4a2": 1, "fp32": 1}
    assert result.unplanned == ()
    result.require()


def test_a_reduced_range_counts_the_bits_that_are_used(graph: fx.GraphModule, inputs: Tensor, tmp_path: Path) -> None:
    plan = layer(8).model_copy(update={"weight": W8.model_copy(update={"reduce_range": True})})
    model = quantised(graph, inputs, plan)
    export_qonnx(model, inputs[:1], tmp_path / "model.onnx")
    result = audited(tmp_path / "model.onnx", model, tmp_path)
    assert result.planned == result.executed == {"w7a8": 4}


def test_weights_of_another_width_fail_by_name(model: CompressedModel, file: Path, tmp_path: Path) -> None:
    other = changed(file, tmp_path, lambda f: set_bits(f, "body.weight.integers", 8))
    result = audited(other, model, tmp_path)
    assert [(m.layer, m.planned, m.executed) for m in result.mismatches] == [
        ("body", "int4", "w8a4"), ("body#2", "w4a2", "w8a2")
    ]  # fmt: skip
    with pytest.raises(
        VerificationError, match=r"2 of 4 layers .* body: planned int4, executed w8a4 by ai\.onnx\.Conv"
    ):
        result.require()


def test_a_float_input_fails_by_name(model: CompressedModel, file: Path, tmp_path: Path) -> None:
    def bypass(found: onnx.ModelProto) -> None:
        head = next(node for node in found.graph.node if node.name == "head")
        head.input[0] = "input"

    result = audited(changed(file, tmp_path, bypass), model, tmp_path)
    with pytest.raises(VerificationError, match=r"1 of 4 layers .* head: planned int8, executed fp32") as caught:
        result.require()
    assert "\n" not in str(caught.value)


def test_a_layer_that_the_file_lacks_fails_by_name(model: CompressedModel, file: Path, tmp_path: Path) -> None:
    layers = {**model.plan.layers, "ghost": layer(4)}
    wanted = CompressedModel(model.graph, model.plan.model_copy(update={"layers": layers}))
    with pytest.raises(VerificationError, match="ghost: planned int4, but the exported graph has no such layer"):
        audited(file, wanted, tmp_path).require()


def test_pairs_of_quantise_and_dequantise_are_read_as_8_bits(
    graph: fx.GraphModule, inputs: Tensor, tmp_path: Path
) -> None:
    """Q/DQ files store every width in 8 bits, so only a plan of 8 bits passes with one."""
    eight, four = (quantised(graph, inputs, layer(bits), placement=Placement.INPUTS) for bits in (8, 4))
    for model, name in ((eight, "eight"), (four, "four")):
        export_quantized(model, inputs[:1], tmp_path / f"{name}.onnx")
    audited(tmp_path / "eight.onnx", eight, tmp_path / "a").require()
    with pytest.raises(VerificationError, match=r"4 of 4 layers .* head: planned int4, executed int8"):
        audited(tmp_path / "four.onnx", four, tmp_path / "b").require()
