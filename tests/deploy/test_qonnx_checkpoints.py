"""Real networks as QONNX: bit-equal to the integers in torch at 8, 4 and 2 bits and mixed, with audits that pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx

from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes
from compress.integer_graph import EXACT_SUM, integer_graph, largest_sums
from compress.plan import LayerPlan, Placement
from compress.preparation import prepare
from deploy.audit import audit
from tests.deploy.qonnx_helpers import activations, layer, qonnx_engine, quantised, weights
from workloads.loading import load_checkpoint

pytest.importorskip("qonnx", reason="qonnx is not installed: pip install 'bitwright[fpga]'")
pytestmark = [pytest.mark.engine, pytest.mark.data]

SIDE = 24


def opened(data: Path, checkpoint: str, pictures: str, side: int) -> tuple[fx.GraphModule, Tensor]:
    """The network's graph and crops to calibrate on."""
    loaded = load_checkpoint(data / checkpoint)
    crops = loaded.workload.calibration(data / pictures, 8, side, 0)
    return prepare(capture(loaded.module, crops[:1])), crops


def checked(model: CompressedModel, x: Tensor, folder: Path) -> np.ndarray:
    """The output of the engine: bit for bit that of the integers in torch, executed as planned."""
    engine = qonnx_engine(model, x[:1], folder)
    result = audit(engine, folder / "model.onnx", model.plan)
    result.require()
    assert result.planned == result.executed
    assert sum(result.executed.values()) == len(model.plan.layers)
    assert max(largest_sums(model).values()) < EXACT_SUM
    with torch.inference_mode():
        expected = integer_graph(model)(x).numpy()
    found = engine.run(x.numpy())
    np.testing.assert_array_equal(found, expected)
    return found


def near_simulation(model: CompressedModel, x: Tensor, found: np.ndarray, share: float) -> None:
    """The engine is off torch's simulation by a small share of what the simulation is off the float network."""
    with torch.inference_mode():
        real, simulated = model.graph(x).numpy(), model.simulate()(x).numpy()
    error = np.abs(simulated - real).mean()
    assert error > 0
    assert np.abs(simulated - found).mean() < share * error


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_espcn(bits: int, data: Path, tmp_path: Path) -> None:
    graph, crops = opened(data, "checkpoints/espcn_x4.pth", "sr/test/Set5", SIDE)
    # Everything, so that the tanh at the end, which libraries compute differently, is rounded too.
    model = quantised(graph, crops, layer(bits), placement=Placement.EVERYTHING)
    near_simulation(model, crops[:2], checked(model, crops[:2], tmp_path), 0.01)


@pytest.mark.parametrize("bits", [8, 4])
def test_fsrcnn_with_its_transposed_convolution_and_zero_points(bits: int, data: Path, tmp_path: Path) -> None:
    graph, crops = opened(data, "checkpoints/fsrcnn_x4.pth", "sr/test/Set5", SIDE)
    plan = LayerPlan(weight=weights(bits), activation=activations(bits, signed=False, symmetric=False))
    model = quantised(graph, crops, plan)
    near_simulation(model, crops[:2], checked(model, crops[:2], tmp_path), 0.05)


def test_rfdn_in_a_mix_of_widths(data: Path, tmp_path: Path) -> None:
    graph, crops = opened(data, "checkpoints/rfdn_x4.pth", "sr/test/Set5", SIDE)
    names = [name for name, _ in layer_nodes(graph)]
    others = {name: layer(4, 8) for name in names if name.startswith("B2")}
    others |= {name: layer(6) for name in names if name.startswith("B3")}
    others |= {name: LayerPlan(reason="on purpose") for name in names if "esa" in name}
    model = quantised(graph, crops, layer(8), others)
    assert len({found.weight and found.weight.bits for found in model.plan.layers.values()}) == 4
    engine = qonnx_engine(model, crops[:1], tmp_path)
    result = audit(engine, tmp_path / "model.onnx", model.plan)
    result.require()
    assert set(result.executed) == {"int8", "w4a8", "int6", "fp32"}
    found = engine.run(crops[:1].numpy())
    with torch.inference_mode():
        expected = integer_graph(model)(crops[:1]).numpy()
    # Convolutions in float round in another order, and a value on a rounding boundary may fall to the other side.
    assert np.mean(np.abs(found - expected) > 1e-3) < 0.05
    near_simulation(model, crops[:1], found, 0.1)


@pytest.mark.parametrize(
    ("name", "mixed"),
    [
        ("imdn_x4", True),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [("imdn_x4", False), ("pan_x4", False), ("pan_x4", True)]
        ),
    ],
)
def test_larger_enlargers_on_integers_and_mixed(name: str, mixed: bool, data: Path, tmp_path: Path) -> None:
    graph, crops = opened(data, f"checkpoints/{name}.pth", "sr/test/Set5", SIDE)
    names = [layer_name for layer_name, _ in layer_nodes(graph)]
    others = {layer_name: LayerPlan(reason="on purpose") for layer_name in names[::3]} if mixed else {}
    model = quantised(graph, crops, layer(8), others)
    engine = qonnx_engine(model, crops[:1], tmp_path)
    result = audit(engine, tmp_path / "model.onnx", model.plan)
    result.require()
    assert result.executed.get("fp32", 0) == len(others)
    assert sum(result.executed.values()) == len(names)
    found = engine.run(crops[:1].numpy())
    with torch.inference_mode():
        real, simulated = (network(crops[:1]).numpy() for network in (model.graph, model.simulate()))
    # Deep networks pass on each value that fell to the other side of a boundary: another error, and no larger one.
    assert np.abs(found - real).mean() < 1.1 * np.abs(simulated - real).mean()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_resnet20(bits: int, data: Path, tmp_path: Path) -> None:
    graph, crops = opened(data, "classification/checkpoints/resnet20_cifar10.pth", "classification/cifar10", 32)
    names = [name for name, _ in layer_nodes(graph)]
    # As is usual, the first and the last layer keep 8 bits.
    model = quantised(graph, crops, layer(bits), {names[0]: layer(8), names[-1]: layer(8)})
    found = checked(model, crops, tmp_path)
    assert found.shape == (8, 10)
    # 20 layers pass on what fell to the other side of a rounding boundary.
    near_simulation(model, crops, found, 0.25)
