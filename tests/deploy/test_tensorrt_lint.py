"""The lint's rules against the real builder: each network is linted, and built to see whether the rule is true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bitwright.foundation.errors import UsageError
from deploy.engine import Runtime, ShapeRange
from deploy.engines.exported_graph import ExportedGraph
from deploy.engines.runtime_packages import import_runtime
from deploy.engines.tensorrt_builder import Compiled, compile_network
from deploy.engines.tensorrt_engine import precision_of
from deploy.engines.tensorrt_lint import Finding, lint, require_accepted
from deploy.engines.tensorrt_record import layers_in_log
from deploy.engines.tensorrt_target import GpuTarget
from hw_profiles import load_profile
from tests.deploy.qdq_networks import (
    Sketch,
    between,
    float_weight,
    grouped,
    integer_bias,
    joined,
    product,
    single,
    transposed,
)  # fmt: skip

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'bitwright[tensorrt-rtx]'")

Draw = Callable[[Sketch], str]

REFUSED: dict[str, tuple[Draw, str]] = {
    "zero point of the input": (single(x={"zero": np.int8(5)}), "its input has a zero point other than 0"),
    "unsigned input with a zero point": (single(x={"zero": np.uint8(128)}), "its input has a zero point other than 0"),
    "zero point of the weights": (single(x={}, zero=3), "its weights have a zero point other than 0"),
    "unsigned weights": (single(x={}, kind=np.uint8), "its weights are unsigned"),
    "clipped weights": (single(x={}, clip=True), "Clip lies between its integers and DequantizeLinear"),
    "integer bias": (integer_bias, "its bias is int32 behind DequantizeLinear"),
    "empty range": (single(x={"step": 0.0}), "a scale is not positive"),
}

FLOAT: dict[str, tuple[Draw, str]] = {
    "input not quantised": (single(), "its weight is quantised and its input is not"),
    "weight not quantised": (float_weight, "its input is quantised and its weight is not"),
    "a scale for each input channel": (
        single(x={"step": [0.02] * 3, "zero": np.zeros(3, np.int8)}), "its input has one scale for each channel",
    ),
    "scales along the inputs": (single(x={}, axis=1), "the scales of its weights lie along axis 1"),
    "activation": (between("Relu"), "Relu 'step' lies between its input's DequantizeLinear and it"),
    "average": (between("AveragePool", kernel_shape=[2, 2]), "AveragePool 'step' lies between"),
    "resize": (between("Resize", None, np.float32([1, 1, 2, 2]), mode="nearest"), "Resize 'step' lies between"),
    "joined at two scales": (joined(0.03), "Concat 'step' lies between"),
    "transposed convolution": (transposed, "has no integer or fp8 kernel for transposed convolutions"),
    "scales along the sum": (product("MatMul", 0), "the scales of its weights lie along axis 0"),
}  # fmt: skip

INTEGER: dict[str, Draw] = {
    "plain": single(x={}),
    "unsigned input": single(x={"zero": np.uint8(0)}),
    "shuffle": between("DepthToSpace", blocksize=2, mode="CRD"),
    "maximum": between("MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
    "slice": between("Slice", np.int64([0]), np.int64([8]), np.int64([1])),
    "reshape": between("Reshape", np.int64([0, 0, -1, 16])),
    "identity": between("Identity"),
    "shuffle back": between("SpaceToDepth", blocksize=2),
    "transpose": between("Transpose", perm=[0, 1, 3, 2]),
    "joined at one scale": joined(0.02),
    "depthwise": grouped,
    "Gemm": product("Gemm", 0, turned=True),
    "MatMul": product("MatMul", 1),
    "flatten": product("MatMul", 1, flattened_late=True),
    "turned MatMul": product("MatMul", 0, turned=True),
}


def drawn(draw: Draw, path: Path) -> onnx.ModelProto:
    sketch = Sketch()
    file = sketch.file(draw(sketch))
    onnx.save(file, path)
    return file


def built(path: Path) -> Compiled:
    target = GpuTarget.of(load_profile("rtx-3060"))
    api = import_runtime(Runtime.TENSORRT_RTX)
    shapes = ShapeRange.around((1, 3, 32, 32))
    return compile_network(
        api, Runtime.TENSORRT_RTX, path, target, shapes, sparse_weights=False, cache=path.with_suffix(".cache")
    )


def executed(path: Path) -> set[str]:
    """Precisions of the layers of the engine that compute `second` as a convolution or product of their own."""
    kinds = {"correlation", "deconv", "gemm"}
    assert "second" in ExportedGraph.read(path).layers
    return {precision_of(n) for n in layers_in_log(built(path).log) if "second" in n.origins and n.kind in kinds}


@pytest.mark.engine
@pytest.mark.parametrize("name", REFUSED)
def test_what_the_builder_refuses_is_named_before(name: str, tmp_path: Path) -> None:
    draw, problem = REFUSED[name]
    findings = lint(drawn(draw, tmp_path / "net.onnx"))
    refused = [finding for finding in findings if finding.refused]
    assert {finding.layer for finding in refused} == {"second"}
    assert problem in {finding.problem for finding in refused}
    with pytest.raises(UsageError, match=rf"does not accept .* net: second: {problem}"):
        require_accepted(findings, Runtime.TENSORRT_RTX, "net")
    with pytest.raises(UsageError, match=r"tensorrt-rtx cannot (read|build) net\.onnx"):
        built(tmp_path / "net.onnx")


@pytest.mark.engine
@pytest.mark.parametrize("name", FLOAT)
def test_what_will_run_in_float_does(name: str, tmp_path: Path) -> None:
    draw, problem = FLOAT[name]
    findings = lint(drawn(draw, tmp_path / "net.onnx"))
    assert [(f.layer, f.refused) for f in findings] == [("second", False)]
    assert problem in findings[0].problem
    require_accepted(findings, Runtime.TENSORRT_RTX, "net")
    assert "int8" not in executed(tmp_path / "net.onnx")


@pytest.mark.engine
@pytest.mark.parametrize("name", INTEGER)
def test_what_nothing_is_said_of_runs_on_integers(name: str, tmp_path: Path) -> None:
    assert lint(drawn(INTEGER[name], tmp_path / "net.onnx")) == ()
    assert executed(tmp_path / "net.onnx") == {"int8"}


def test_a_finding_says_what_happens_and_what_to_do() -> None:
    finding = Finding(layer="a.b", node="n", problem="it is so", remedy="do that", refused=False)
    assert finding.text == "a.b (runs in float): it is so; do that"
    assert finding.model_copy(update={"refused": True}).text.startswith("a.b (refused)")
