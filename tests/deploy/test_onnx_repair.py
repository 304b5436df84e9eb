"""Files that Brevitas exports must end in integer kernels after the repair, and compute the same."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deploy.engine import Runtime
from deploy.engines import build_engine, load_engine
from deploy.onnx_repair import repair
from tests.deploy.runtimes import RUN_ON_CPU


@pytest.fixture(scope="module")
def brevitas_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from brevitas.export import export_onnx_qcdq
    from brevitas.nn import QuantConv2d, QuantIdentity, QuantReLU
    from brevitas.quant import Int8WeightPerChannelFloat, Int32Bias, Uint8ActPerTensorFloat

    def conv(before: int, after: int) -> torch.nn.Module:
        return QuantConv2d(
            before, after, 3, padding=1, weight_quant=Int8WeightPerChannelFloat, bias_quant=Int32Bias,
            return_quant_tensor=True,
        )  # fmt: skip

    torch.manual_seed(0)
    act = Uint8ActPerTensorFloat
    network = torch.nn.Sequential(
        QuantIdentity(act_quant=act, return_quant_tensor=True), conv(3, 16),
        QuantReLU(act_quant=act, return_quant_tensor=True), conv(16, 16), QuantReLU(act_quant=act),
    )  # fmt: skip
    x = torch.rand(1, 3, 32, 32)
    path = tmp_path_factory.mktemp("brevitas") / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network(x)
        network.eval()
        export_onnx_qcdq(network, args=x, export_path=str(path), dynamo=False, opset_version=17)
    return path


def test_clips_of_constant_weights_are_folded(brevitas_file: Path):
    file = onnx.load(brevitas_file)
    assert [n.op_type for n in file.graph.node].count("Clip") == 2
    assert len(repair(file).folded_clips) == 2
    assert "Clip" not in [n.op_type for n in file.graph.node]
    onnx.checker.check_model(file)
    assert not repair(file).changed


@pytest.mark.engine
@pytest.mark.parametrize("runtime", RUN_ON_CPU)
def test_a_repaired_engine_runs_integer_kernels(brevitas_file: Path, tmp_path: Path, runtime: Runtime):
    build_engine(brevitas_file, tmp_path, runtime=runtime, profile="x86-avx512-vnni-bf16")
    engine = load_engine(tmp_path, 1)
    convolutions = [n.precision for n in engine.executed_nodes() if "conv" in n.op.lower()]
    assert convolutions == ["int8", "int8"]
    x = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(brevitas_file, options, providers=["CPUExecutionProvider"])
    (expected,) = plain.run(None, {plain.get_inputs()[0].name: x})
    assert np.abs(engine.run(x) - expected).max() <= 2 * np.abs(expected).max() / 255


def test_initializers_among_the_inputs_are_hidden():
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 1, 1]) for n in ("x", "w")]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 1])
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", inputs, [output], [weight])
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert repair(file).hidden_inputs == ("w",)
    assert [value.name for value in file.graph.input] == ["x"]
