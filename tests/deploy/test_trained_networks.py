"""Trained networks on integers, as each of our own compilers has them run, against their simulation."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from compress.graph import capture
from compress.plan import Placement
from compress.preparation import prepare
from deploy.audit import audit
from deploy.engine import Engine, Runtime
from deploy.engines import build_engine, load_engine
from deploy.onnx_export import export_quantized
from deploy.verify import verify
from tests.deploy.runtimes import NO_COMPILER
from workloads.loading import load_checkpoint

NETWORKS = ("espcn_x2", "fsrcnn_x4", "rfdn_x4", "imdn_x4", "pan_x4")
SMALL = ("espcn_x2", "fsrcnn_x4")
MARKS = {
    Runtime.LITERT: pytest.mark.skipif(
        find_spec("ai_edge_litert") is None, reason="LiteRT is not installed: pip install 'bitwright[edge]'"
    ),
    Runtime.TORCH: pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER)),
}
runtimes = pytest.mark.parametrize("runtime", [pytest.param(runtime, marks=mark) for runtime, mark in MARKS.items()])


def built(path: Path, folder: Path, runtime: Runtime, shape: tuple[int, int, int, int] | None = None) -> Engine:
    build_engine(path, folder, runtime=runtime, profile="any", input_shape=shape)
    return load_engine(folder, 1)


@runtimes
@pytest.mark.parametrize("name", NETWORKS)
def test_trained_networks_on_integers_are_within_two_hundredths_of_a_decibel(
    name: str, runtime: Runtime, data: Path, quantize, tmp_path: Path
) -> None:
    loaded = load_checkpoint(data / "checkpoints" / f"{name}.pth")
    samples = loaded.workload.samples(data / "sr/test/Set5")[1:4]
    crops = loaded.workload.calibration(data / "sr" / "train", 8, 48)
    litert = runtime is Runtime.LITERT
    # torch has no integer kernel for transposed convolutions, and is given large networks as `compress` places them.
    placement = Placement.EVERYTHING if litert or name in SMALL else Placement.INPUTS
    floats = () if litert or name != "fsrcnn_x4" else ("last_part",)
    model = quantize(loaded.module, placement, crops=crops, float_layers=floats)
    path = tmp_path / "model.onnx"
    export_quantized(model, crops[:1], path)
    engine = built(path, tmp_path, runtime)
    audit(engine, path, model.plan).require()
    verify(model.simulate(), engine, samples, loaded.workload)


@runtimes
def test_resnet20_on_integers_gives_the_classes_of_its_simulation(
    runtime: Runtime, data: Path, quantize, tmp_path: Path
) -> None:
    loaded = load_checkpoint(data / "classification/checkpoints/resnet20_cifar10.pth")
    crops = loaded.workload.calibration(data / "classification/cifar10", 64, 32, 0)
    folded = prepare(capture(loaded.module, crops[:1]))
    model = quantize(folded, Placement.EVERYTHING, crops=crops)
    path = tmp_path / "model.onnx"
    export_quantized(model, crops[:1], path)
    engine = built(path, tmp_path, runtime, (64, 3, 32, 32))
    result = audit(engine, path, model.plan)
    result.require()
    assert len(result.layers) == 20
    found, expected = engine.run(crops.numpy()), model.simulate()(crops).numpy()
    assert np.mean(found.argmax(1) == expected.argmax(1)) > 0.98
    np.testing.assert_allclose(found, expected, atol=0.4)
