"""Each operator that the compiler writes, in LiteRT against torch or ONNX Runtime, in float and on integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bitwright.foundation.errors import UsageError
from deploy.tflite import compile_file
from tests.deploy.operators import reference, run_litert, sample, set_parameters
from tests.deploy.qdq_networks import Sketch

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'bitwright[edge]'")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    set_parameters()


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
        np.testing.assert_allclose(run_litert(path, x), reference(path, x), atol=2e-6)


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
    np.testing.assert_allclose(run_litert(path, x), reference(path, x), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("quantized", [False, True])
def test_values_are_picked_by_constant_indices(axis: int, quantized: bool, tmp_path: Path) -> None:
    sketch = Sketch()
    made = sketch.conv("input", "first", 3)
    source = sketch.quantised(made, "first.q") if quantized else made
    indices = sketch.constant("indices", np.asarray([0, 0, 3, -1, 2]))
    path = tmp_path / "net.onnx"
    onnx.save(sketch.file(sketch.node("Gather", [source, indices], "picked", axis=axis)), path)
    x = sample(8, 9).numpy()
    np.testing.assert_allclose(run_litert(path, x), reference(path, x), atol=2e-6)


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
        np.testing.assert_allclose(run_litert(path, x), reference(path, x), atol=1e-5)
        return
    with pytest.raises(UsageError, match=rf"LiteRT cannot run node 'odd' \({op}\): .*{says}") as caught:
        compile_file(path, x.shape)
    assert "\n" not in str(caught.value)
