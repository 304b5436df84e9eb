"""What QONNX engines refuse, each in one clear line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitwright.foundation.errors import UsageError
from deploy.engine import FloatPrecision, Runtime
from deploy.engines import build_engine, load_engine
from deploy.latency import Candidate, LoadGate, measure

pytest.importorskip("qonnx", reason="qonnx is not installed: pip install 'bitwright[fpga]'")
pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]


def one_quant(
    path: Path, *, bits: float = 4.0, constant: bool = True, op: str = "Quant", shape: tuple[object, ...] = (1, 3, 8, 8)
) -> Path:
    """A file that is one quantiser."""
    node = helper.make_node(
        op, ["input", "scale", "zero", "bits"], ["output"], domain="qonnx.custom_op.general",
        signed=1, narrow=0, rounding_mode="ROUND",
    )  # fmt: skip
    constants = {"scale": 0.5, "zero": 0.0} | ({"bits": bits} if constant else {})
    nodes = [node]
    if not constant:
        nodes.insert(0, helper.make_node("ReduceMax", ["input"], ["bits"], keepdims=0))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("qonnx.custom_op.general", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def refusal(path: Path, folder: Path, **more: object) -> str:
    """The one line that building an engine ends with."""
    with pytest.raises(UsageError) as caught:
        build_engine(path, folder, runtime=Runtime.QONNX, profile="fpga-dataflow", **more)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (folder / "engine.json").exists()
    return str(caught.value)


def test_a_quantiser_of_another_exporter_runs(tmp_path: Path) -> None:
    path = one_quant(tmp_path / "model.onnx", shape=("n", 3, "h", "w"))
    build_engine(path, tmp_path, runtime=Runtime.QONNX, profile="fpga-dataflow")
    x = np.linspace(-6, 6, 2 * 3 * 5 * 7, dtype=np.float32).reshape(2, 3, 5, 7)
    engine = load_engine(tmp_path, 1)
    np.testing.assert_array_equal(engine.run(x), np.clip(np.round(2 * x), -8, 7) / 2)
    assert [node.precision for node in engine.executed_nodes()] == ["int4"]


def test_a_width_that_is_computed(tmp_path: Path) -> None:
    told = refusal(one_quant(tmp_path / "model.onnx", constant=False), tmp_path / "engine")
    assert "model.onnx does not pass qonnx's checks" in told
    assert "not constant" in told


def test_a_width_that_is_no_integer(tmp_path: Path) -> None:
    told = refusal(one_quant(tmp_path / "model.onnx", bits=4.5), tmp_path / "engine")
    assert "has 4.5 bits" in told


def test_an_operator_that_qonnx_does_not_have(tmp_path: Path) -> None:
    told = refusal(one_quant(tmp_path / "model.onnx", op="Quantum"), tmp_path / "engine")
    assert "Quantum" in told


def test_floats_of_16_bits(float_file: Path, tmp_path: Path) -> None:
    told = refusal(float_file, tmp_path / "engine", float_precision=FloatPrecision.BF16)
    assert told == "qonnx's executor computes floats in fp32 only, not in bf16"


def test_a_size_that_the_network_does_not_take(tmp_path: Path) -> None:
    build_engine(one_quant(tmp_path / "model.onnx"), tmp_path, runtime=Runtime.QONNX, profile="x", input_shape=None)
    engine = load_engine(tmp_path, 1)
    for shape in ((1, 3, 8, 9), (3, 8, 8)):
        with pytest.raises(UsageError, match=r"the network takes float32 \[1, 3, 8, 8\]"):
            engine.run(np.zeros(shape, np.float32))


def test_it_is_never_timed(float_file: Path, tmp_path: Path) -> None:
    build_engine(float_file, tmp_path, runtime=Runtime.QONNX, profile="fpga-dataflow")
    gate = LoadGate(wait_seconds=0.0, window_seconds=0.05)
    with pytest.raises(
        UsageError, match=r"qonnx engines are not timed: .* FINN and hls4ml.* nothing of the device"
    ) as e:
        measure([Candidate("engine", tmp_path)], input_shape=(1, 3, 16, 16), min_seconds=0.1, gate=gate)
    assert "\n" not in str(e.value)


def test_a_missing_package_names_the_extra(float_file: Path, tmp_path: Path) -> None:
    """In a process of its own, where importing qonnx fails as it does where it is not installed."""
    script = (
        "import sys; sys.modules['qonnx'] = None; from pathlib import Path; from deploy.engines import build_engine;"
        "from deploy.engine import Runtime; from bitwright.foundation.errors import MissingPackageError\n"
        "try: build_engine(Path(sys.argv[1]), Path(sys.argv[2]), runtime=Runtime.QONNX, profile='fpga-dataflow')\n"
        "except MissingPackageError as error: print(error)"
    )
    words = [sys.executable, "-c", script, str(float_file), str(tmp_path / "engine")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert "pip install 'bitwright[fpga]'" in done.stdout
    assert not (tmp_path / "engine").exists()
