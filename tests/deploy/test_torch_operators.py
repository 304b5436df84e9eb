"""Each operator of an exported graph as the torch runtime computes it, before it is compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bitwright.foundation.errors import UsageError
from compress.graph import capture
from compress.plan import Placement
from deploy.onnx_export import export_float, export_quantized
from deploy.runtimes import FloatPrecision
from deploy.torch_aot.network import OnnxNetwork
from tests.deploy.operators import OPERATORS, SIZES, Call, reference, sample, set_parameters
from tests.deploy.qdq_networks import Sketch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    set_parameters()


def run(path: Path, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        result: np.ndarray = OnnxNetwork(path, FloatPrecision.FP32).eval()(torch.from_numpy(x)).numpy()
    return result


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
    assert "first" in OnnxNetwork(path, FloatPrecision.FP32).quantized


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_both_orders_of_depth_to_space(mode: str, tmp_path: Path) -> None:
    sketch = Sketch()
    made = sketch.node("Tanh", [sketch.conv("input", "first", 3)], "step")
    path = tmp_path / "net.onnx"
    onnx.save(sketch.file(sketch.node("DepthToSpace", [made], "shuffle", blocksize=2, mode=mode)), path)
    x = sample(9, 7).numpy() - 0.5
    np.testing.assert_allclose(run(path, x), reference(path, x), atol=2e-6)


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
        run(path, sample(24, 24).numpy())
    assert "\n" not in str(caught.value)
