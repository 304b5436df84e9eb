"""Each operator of an exported graph, as each of our own compilers has it computed, in float and on integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compress.graph import capture
from compress.plan import Placement
from deploy.engine import Runtime
from deploy.onnx_export import export_float, export_quantized
from tests.deploy.conftest import Quantize
from tests.deploy.operators import OPERATORS, RUNS, SIZES, Call, first_precision, reference, sample, set_parameters
from tests.deploy.qdq_networks import Sketch
from tests.marks import needs_litert

runtimes = pytest.mark.parametrize(
    "runtime", [pytest.param(each, marks=needs_litert if each is Runtime.LITERT else ()) for each in RUNS]
)


@pytest.fixture(scope="module", params=OPERATORS)
def in_float(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Call, Path]:
    """An operator behind a convolution, and its file."""
    set_parameters()
    network, path = Call(OPERATORS[request.param]).eval(), tmp_path_factory.mktemp("float") / "net.onnx"
    export_float(capture(network, sample(*SIZES[0])), sample(*SIZES[0]), path)
    return network, path


@runtimes
def test_an_operator_computes_in_float_what_torch_does(in_float: tuple[Call, Path], runtime: Runtime) -> None:
    network, path = in_float
    for size in SIZES:
        x = sample(*size)
        with torch.no_grad():
            np.testing.assert_allclose(RUNS[runtime](path, x.numpy()), network(x).numpy(), atol=2e-6)


@pytest.fixture(scope="module", params=OPERATORS)
def on_integers(
    request: pytest.FixtureRequest, quantize: Quantize, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, float]:
    """The name of an operator, its file on integers, and the largest step of its activations."""
    set_parameters()
    network, path = Call(OPERATORS[request.param]).eval(), tmp_path_factory.mktemp("integers") / "net.onnx"
    crops = sample(*SIZES[0])
    model = quantize(network, Placement.EVERYTHING, crops=crops)
    export_quantized(model, crops[:1], path)
    return request.param, path, max(float(params.scale) for params in model.activations.values())


@runtimes
def test_an_operator_computes_on_integers_what_its_file_says(
    on_integers: tuple[str, Path, float], runtime: Runtime
) -> None:
    name, path, level = on_integers
    for size in SIZES:
        x = sample(*size).numpy()
        difference = np.abs(RUNS[runtime](path, x) - reference(path, x))
        assert difference.max() < 1.01 * level
        assert np.mean(difference > 1e-5) < 0.003
    # No kernel of LiteRT clamps to limits of one's own between its sum and its rounding.
    expected = "fp32" if (runtime, name) == (Runtime.LITERT, "clamp") else "int8"
    assert first_precision(runtime, path, x.shape) == expected


@runtimes
def test_every_second_pixel_and_added_channels_as_in_a_shortcut(runtime: Runtime, tmp_path: Path) -> None:
    sketch = Sketch()
    made = sketch.conv("input", "first", 3)
    ends = {"from": [0, 1], "to": [2**31, 2**31], "axes": [2, 3], "steps": [2, 3]}
    thin = sketch.node("Slice", [made, *(sketch.constant(n, np.asarray(v)) for n, v in ends.items())], "thin")
    sides = sketch.constant("sides", np.asarray([0, 4, 1, 0, 0, 3, 0, 2]))
    path = tmp_path / "net.onnx"
    onnx.save(sketch.file(sketch.node("Pad", [thin, sides], "wider")), path)
    x = sample(9, 11).numpy()
    np.testing.assert_allclose(RUNS[runtime](path, x), reference(path, x), rtol=2e-6, atol=2e-6)
