"""The contract of runtimes on trained networks: in float, on integers and mixed, each engine as torch computes it.

What takes minutes of compiling is marked `long`, and runs with `pytest -m long tests/deploy/test_trained_networks.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, fx

from bitwright.runs.job import default_placement
from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes
from compress.plan import Placement
from compress.preparation import prepare
from compress.quantizers import A8, Granularity, QuantFormat
from deploy.audit import audit
from deploy.engine import Engine, Runtime, ShapeRange
from deploy.engines import build_engine, load_engine
from deploy.onnx_export import export_quantized
from deploy.verify import verify
from hw_profiles import load_profile
from tests.deploy.conftest import Quantize
from tests.marks import needs_compiler, needs_litert, needs_tensorrt_rtx
from workloads.loading import load_checkpoint
from workloads.workload import LoadedModel

pytestmark = [pytest.mark.engine, pytest.mark.data]

SMALL, LARGE = ("espcn_x2", "fsrcnn_x4"), ("rfdn_x4", "imdn_x4", "pan_x4")
RESNET = "classification/checkpoints/resnet20_cifar10.pth"
GPU = "rtx-4090"
SYMMETRIC = QuantFormat(bits=8, granularity=Granularity.TENSOR, symmetric=True, signed=True)


class Kind(StrEnum):
    """What a plan has on integers: no layer, all of them, or all but every third."""

    FLOAT = "float"
    INTEGERS = "int8"
    MIXED = "mixed"


Marks = tuple[pytest.MarkDecorator, ...]
CPU: dict[Runtime, Marks] = {
    Runtime.ONNXRUNTIME: (), Runtime.OPENVINO: (), Runtime.LITERT: (needs_litert,), Runtime.TORCH: (needs_compiler,)
}  # fmt: skip
"""The runtimes that run here, with what they need."""

GPUS: dict[Runtime, Marks] = {Runtime.TENSORRT_RTX: (needs_tensorrt_rtx,)}
"""Those that build here for a GPU."""


def is_long(name: str, kind: Kind, runtime: Runtime) -> bool:
    """What is left out: PAN, IMDN in kinds other than int8, and most of what torch has to compile."""
    if runtime is Runtime.TORCH:
        return name in LARGE or (name != "espcn_x2" and kind is not Kind.INTEGERS)
    return name == "pan_x4" or (name == "imdn_x4" and kind is not Kind.INTEGERS)


def cases(networks: tuple[str, ...], runtimes: Mapping[Runtime, Marks]) -> list[object]:
    """Every network in every kind on every runtime."""
    found = []
    for (runtime, needs), name, kind in itertools.product(runtimes.items(), networks, Kind):
        marks = [*needs, *([pytest.mark.long] if is_long(name, kind, runtime) else [])]
        found.append(pytest.param(name, kind, runtime, marks=marks, id=f"{name}-{kind}-{runtime}"))
    return found


@dataclass(frozen=True)
class Planned:
    """A network with its plan, calibrated and written for a runtime."""

    model: CompressedModel
    path: Path

    def built(self, folder: Path, runtime: Runtime, shape: tuple[int, int, int, int] | None = None) -> Engine:
        build_engine(self.path, folder, runtime=runtime, profile="any", input_shape=shape)
        return load_engine(folder, 1)

    def checked(self, engine: Engine, kind: Kind) -> None:
        """Audit an engine, and see that the plan of this kind left in float what it should."""
        result, layers = audit(engine, self.path, self.model.plan), len(self.model.plan.layers)
        result.require()
        floats = result.executed.get("fp32", 0)
        # A runtime that has no kernel for a transposed convolution on integers has it in float whatever the kind.
        wanted = {Kind.FLOAT: layers, Kind.INTEGERS: 0, Kind.MIXED: len(range(0, layers, 3))}[kind]
        assert floats - wanted in (0, 1)
        assert sum(result.executed.values()) == layers


Plans = Callable[[str, Kind, Runtime], Planned]


@pytest.fixture(scope="module")
def planned(data: Path, quantize: Quantize, tmp_path_factory: pytest.TempPathFactory) -> Plans:
    """`planned(name, kind, runtime)`; runtimes that take the same file of a network share it."""

    @cache
    def made(name: str, floats: tuple[str, ...], placement: Placement, compiled: bool) -> Planned:
        _, crops, graph = opened(data, name)
        activation = SYMMETRIC if compiled else A8
        model = quantize(graph, placement, crops=crops, activation=activation, float_layers=floats)
        path = tmp_path_factory.mktemp(name) / "model.onnx"
        export_quantized(model, crops[:1], path, quantize_bias=not compiled)
        return Planned(model, path)

    def plan(name: str, kind: Kind, runtime: Runtime) -> Planned:
        names = [layer for layer, _ in layer_nodes(opened(data, name)[2])]
        floats = {Kind.FLOAT: names, Kind.INTEGERS: [], Kind.MIXED: names[::3]}[kind]
        if "last_part" in names and runtime is not Runtime.LITERT and kind is not Kind.FLOAT:
            floats = [*floats, "last_part"]
        if kind is Kind.FLOAT:
            return made(name, tuple(floats), Placement.INPUTS, False)
        placement = Placement.INPUTS if runtime.compiles else default_placement(runtime)
        return made(name, tuple(floats), placement, runtime.compiles)

    return plan


@cache
def opened(data: Path, name: str) -> tuple[LoadedModel, Tensor, fx.GraphModule]:
    """A network, inputs to calibrate on, and its graph."""
    if name == "resnet20":
        loaded = load_checkpoint(data / RESNET)
        crops = loaded.workload.calibration(data / "classification/cifar10", 64, 32, 0)
        return loaded, crops, prepare(capture(loaded.module, crops[:1]))
    loaded = load_checkpoint(data / "checkpoints" / f"{name}.pth")
    crops = loaded.workload.calibration(data / "sr" / "train", 8, 48)
    return loaded, crops, capture(loaded.module, crops[:1])


@pytest.mark.parametrize(("name", "kind", "runtime"), cases((*SMALL, *LARGE), CPU))
def test_enlargers_are_within_two_hundredths_of_a_decibel_of_torch(
    name: str, kind: Kind, runtime: Runtime, data: Path, planned: Plans, tmp_path: Path
) -> None:
    loaded, _, _ = opened(data, name)
    made = planned(name, kind, runtime)
    engine = made.built(tmp_path, runtime)
    made.checked(engine, kind)
    samples = loaded.workload.samples(data / "sr/test/Set5")[1:4]
    verify(made.model.simulate(), engine, samples, loaded.workload)


@pytest.mark.parametrize(("name", "kind", "runtime"), cases(("resnet20",), CPU))
def test_resnet20_gives_the_classes_of_torch(
    name: str, kind: Kind, runtime: Runtime, data: Path, planned: Plans, tmp_path: Path
) -> None:
    _, crops, _ = opened(data, name)
    made = planned(name, kind, runtime)
    engine = made.built(tmp_path, runtime, (64, 3, 32, 32))
    made.checked(engine, kind)
    found, expected = engine.run(crops.numpy()), made.model.simulate()(crops).numpy()
    assert np.mean(found.argmax(1) == expected.argmax(1)) > 0.98
    np.testing.assert_allclose(found, expected, atol=1e-3 if kind is Kind.FLOAT else 0.4)


@pytest.mark.parametrize(("name", "kind", "runtime"), cases((*SMALL, *LARGE, "resnet20"), GPUS))
def test_engines_for_gpus_are_built_as_planned(
    name: str, kind: Kind, runtime: Runtime, data: Path, planned: Plans, tmp_path: Path
) -> None:
    """Without a GPU their outputs are not seen; what the builder chose is."""
    made = planned(name, kind, runtime)
    device = load_profile(GPU)
    shapes = ShapeRange.around((1, *opened(data, name)[1].shape[1:]), 32)
    build_engine(made.path, tmp_path, runtime=runtime, profile=GPU, device=device, shapes=shapes)
    made.checked(load_engine(tmp_path, 1, device=device), kind)
