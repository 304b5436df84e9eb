"""Operators as the torch runtime computes them, before they are compiled; see `test_operators` for each of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bitwright.foundation.errors import UsageError
from tests.deploy.operators import reference, run_torch, sample, set_parameters
from tests.deploy.qdq_networks import Sketch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    set_parameters()


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_both_orders_of_depth_to_space(mode: str, tmp_path: Path) -> None:
    sketch = Sketch()
    made = sketch.node("Tanh", [sketch.conv("input", "first", 3)], "step")
    path = tmp_path / "net.onnx"
    onnx.save(sketch.file(sketch.node("DepthToSpace", [made], "shuffle", blocksize=2, mode=mode)), path)
    x = sample(9, 7).numpy() - 0.5
    np.testing.assert_allclose(run_torch(path, x), reference(path, x), atol=2e-6)


@pytest.mark.parametrize(
    ("op", "attributes", "says"),
    [
        ("Softplus", {}, "no counterpart"),
        ("MaxPool", {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, "padded alike on all sides"),
        ("Resize", {"mode": "nearest"}, "its size is not constant"),
    ],
)
def test_an_operator_without_counterpart_is_one_line_that_names_it(
    op: str, attributes: dict, says: str, tmp_path: Path
) -> None:
    sketch = Sketch()
    path = tmp_path / "net.onnx"
    onnx.save(sketch.file(sketch.node(op, [sketch.conv("input", "first", 3)], "odd", **attributes)), path)
    with pytest.raises(UsageError, match=rf"torch cannot run node 'odd' \({op}\): .*{says}") as caught:
        run_torch(path, sample(24, 24).numpy())
    assert "\n" not in str(caught.value)
