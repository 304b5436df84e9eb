"""Fixtures of the engine tests: a small network quantised with real calibration, exported once per session."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8, Granularity, QuantFormat
from compress.ranges import RangeMethod, set_ranges
from compress.statistics import collect
from deploy.engine import Runtime
from deploy.engines import build_engine
from deploy.onnx_export import export_float, export_quantized
from tests.deploy.bundle_helpers import Bundle, make_bundle
from tests.deploy.far_machine import SshServer, start_server

Quantize = Callable[..., CompressedModel]
BuildOnce = Callable[[Path, Runtime, Path], None]
SIGNED = QuantFormat(bits=8, granularity=Granularity.TENSOR, symmetric=True, signed=True)


class Network(nn.Module):
    """Two convolutions, one of them called twice, with the activations that runtimes fuse, and a shuffle at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.tail = nn.Conv2d(16, 12, 1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.head(x))
        second = nn.functional.leaky_relu(self.body(first), 0.05)
        third = torch.relu(self.body(second)) + first
        return self.shuffle(self.tail(third))


@pytest.fixture(scope="session")
def network() -> Network:
    torch.manual_seed(3)
    return Network().eval()


@pytest.fixture(scope="session")
def inputs() -> Tensor:
    """Smooth pictures [4, 3, 24, 32] in 0..1."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(4, 3, 6, 8, generator=generator)
    return nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="session")
def quantize(inputs: Tensor) -> Quantize:
    """`quantize(module, placement, weight=W8, activation=A8, float_layers=(), float_precision="fp32", crops=None)`."""

    def build(
        module: nn.Module,
        placement: Placement,
        *,
        weight: QuantFormat = W8,
        activation: QuantFormat = A8,
        float_layers: tuple[str, ...] = (),
        float_precision: str = "fp32",
        crops: Tensor = inputs,
    ) -> CompressedModel:
        graph = capture(module, crops[:1])
        layers = {
            name: LayerPlan() if name in float_layers else LayerPlan(weight=weight, activation=activation)
            for name, _ in layer_nodes(graph)
        }
        plan = Plan(
            architecture=type(module).__name__,
            device="any",
            runtime="any",
            float_precision=float_precision,
            placement=placement,
            layers=layers,
        )
        wanted = {site.tensor.name for site in place(graph, plan)}
        return set_ranges(graph, plan, collect(graph, crops, wanted), RangeMethod.MINMAX)

    return build


@pytest.fixture(scope="session")
def model(quantize: Quantize, network: Network) -> CompressedModel:
    return quantize(network, Placement.EVERYTHING)


@pytest.fixture(scope="session")
def float_file(network: Network, inputs: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    export_float(capture(network, inputs[:1]), inputs[:1], path)
    return path


@pytest.fixture(scope="session")
def quantized_file(model: CompressedModel, inputs: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "quantized.onnx"
    export_quantized(model, inputs[:1], path)
    return path


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> BuildOnce:
    """`build_once(file, runtime, folder)`: as `build_engine` for any device, where a second time copies the first."""
    known: dict[tuple[Path, Runtime], Path] = {}

    def build(file: Path, runtime: Runtime, folder: Path) -> None:
        if (file, runtime) not in known:
            first = tmp_path_factory.mktemp(f"{file.stem}-{runtime.value}")
            build_engine(file, first, runtime=runtime, profile="any")
            known[file, runtime] = first
        shutil.copytree(known[file, runtime], folder, dirs_exist_ok=True)

    return build


@pytest.fixture(scope="session")
def symmetric(quantize: Quantize, network: Network) -> CompressedModel:
    """The network in the form that TensorRT takes."""
    return quantize(network, Placement.INPUTS, activation=SIGNED)


@pytest.fixture(scope="session")
def symmetric_file(symmetric: CompressedModel, inputs: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("symmetric") / "net.onnx"
    export_quantized(symmetric, inputs[:1], path, quantize_bias=False)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """A real SSH server on loopback."""
    started = start_server(tmp_path_factory.mktemp("ssh"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def bundle(quantized_file: Path, float_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"), quantized_file, float_file)


@pytest.fixture(scope="module")
def long_bundle(quantized_file: Path, float_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One that takes seconds."""
    folder = tmp_path_factory.mktemp("long")
    return make_bundle(folder, quantized_file, float_file, seconds=1.0, min_samples=400)
