"""Each operator that the compiler writes, in LiteRT against torch or ONNX Runtime, in float and on integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bitwright.foundation.errors import UsageError
from compress.graph import capture
from compress.plan import Placement
from deploy.engines.litert_nodes import executed_nodes
from deploy.engines.litert_session import LiteRtSession
from deploy.onnx_export import export_float, export_quantized
from deploy.tflite import compile_file
from tests.deploy.operators import OPERATORS, SIZES, Call, reference, sample, set_parameters
from tests.deploy.qdq_networks import Sketch

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'bitwright[edge]'")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    set_parameters()


def run(path: Path, x: np.ndarray) -> np.ndarray:
    return LiteRtSession(compile_file(path, x.shape), 1, name=path.name).run(x)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_computes_in_float_what_torch_does(name: str, tmp_path: Path) -> None:
    network, path = Call(OPERATORS[name]).eval(), tmp_path / "net.onnx"
    export_float(capture(network, sample(*SIZES[0])), sample(*SIZES[0]), path)
    for size in SIZES:
        x = sample(*size)
        with torch.no_grad():
            np.testing.assert_allclose(run(path, x.numpy()), network(x).numpy(), atol=2e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_computes_on_integers_what_its_file_says(name: str, quantize, tmp_path: Path) -> None:
    network, path = Call(OPERATORS[name]).eval(), tmp_path / "net.onnx"
    crops = sample(*SIZES[0])
    model = quantize(network, Placement.EVERYTHING, crops=crops)
    export_quantized(model, crops[:1], path)
    level = max(float(params.scale) for params in model.activations.values())
    for size in SIZES:
        x = sample(*size).numpy()
        difference = np.abs(run(path, x) - reference(path, x))
        assert difference.max() < 1.01 * level
        assert np.mean(difference > 1e-5) < 0.003
    nodes = executed_nodes(LiteRtSession(compile_file(path, x.shape), 1, name="").interpreter, {"first": None})
    # No kernel clamps to limits of one's own between its sum and its rounding.
    expected = "fp32" if name == "clamp" else "int8"
    assert [node.precision for node in nodes if "first" in node.origins] == [expected]


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_both_orders_of_depth_to_space(mode: str, tmp_path: Path) -> None:
    for behind in ("Tanh", "Concat"):
        sketch = Sketch()
        made = sketch.conv("input", "first", 3)
        # Behind a convolution channels may be made in another order; what is joined must be moved.
        joined = [made] if behind == "Tanh" else [made, sketch.node("Sigmoid", [made], "other")]
        moved = sketch.node(behind, joined, "step", **({"axis": 1} if behind == "Concat" else {}))
        path = tmp_path / f"{behind}.onnx"
        onnx.save(sketch.file(sketch.node("DepthToSpace", [moved], "shuffle", blocksize=2, mode=mode)), path)
        x = sample(9, 7).numpy() - 0.5
        np.testing.assert_allclose(run(path, x), reference(path, x), atol=2e-6)


def test_a_convolution_with_another_reader_keeps_its_order(tmp_path: Path) -> None:
    sketch = Sketch()
    made = sketch.conv("input", "first", 3)
    shuffled = sketch.node("DepthToSpace", [made], "shuffle", blocksize=2, mode="CRD")
    pooled = sketch.node("GlobalAveragePool", [made], "pool")
    picked = sketch.node("Slice", [pooled, *(sketch.constant(n, np.asarray([v])) for n, v in
                                            (("from", 1), ("to", 5), ("axis", 1)))], "pick")  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(sketch.file(sketch.node("Mul", [shuffled, picked], "scaled")), path)
    x = sample(8, 8).numpy()
    np.testing.assert_allclose(run(path, x), reference(path, x), rtol=2e-6, atol=2e-6)


def test_every_second_pixel_and_added_channels_as_in_a_shortcut(tmp_path: Path) -> None:
    sketch = Sketch()
    made = sketch.conv("input", "first", 3)
    ends = {"from": [0, 1], "to": [2**31, 2**31], "axes": [2, 3], "steps": [2, 3]}
    thin = sketch.node("Slice", [made, *(sketch.constant(n, np.asarray(v)) for n, v in ends.items())], "thin")
    sides = sketch.constant("sides", np.asarray([0, 4, 1, 0, 0, 3, 0, 2]))
    path = tmp_path / "net.onnx"
    onnx.save(sketch.file(sketch.node("Pad", [thin, sides], "wider")), path)
    x = sample(9, 11).numpy()
    np.testing.assert_allclose(run(path, x), reference(path, x), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("op", "attributes", "says"),
    [
        ("Softplus", {}, "no counterpart"),
        ("ReduceMean", {"keepdims": 0}, "only a mean over height and width"),
        ("MaxPool", {"kernel_shape": [2, 2], "ceil_mode": 1}, "rounded down"),
        ("MaxPool", {"kernel_shape": [40, 40]}, "does not fit"),
        ("Transpose", {"perm": [0, 3, 2, 1]}, ""),
    ],
)
def test_an_operator_without_counterpart_is_one_line_that_names_it(
    op: str, attributes: dict, says: str, tmp_path: Path
) -> None:
    sketch = Sketch()
    extra = [sketch.constant("axes", np.asarray([1]))] if op == "ReduceMean" else []
    path = tmp_path / "net.onnx"
    onnx.save(sketch.file(sketch.node(op, [sketch.conv("input", "first", 3), *extra], "odd", **attributes)), path)
    x = sample(24, 24).numpy()
    if not says:
        np.testing.assert_allclose(run(path, x), reference(path, x), atol=1e-5)
        return
    with pytest.raises(UsageError, match=rf"LiteRT cannot run node 'odd' \({op}\): .*{says}") as caught:
        compile_file(path, x.shape)
    assert "\n" not in str(caught.value)
