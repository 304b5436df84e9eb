"""What the tests of upscaling share: small engines that are really built, and pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bitwright.runs.job import default_placement
from compress.graph import capture, layer_nodes
from compress.placement import place
from compress.plan import LayerPlan, Plan
from compress.preparation import prepare
from compress.quantizers import A8, W8
from compress.ranges import RangeMethod, set_ranges
from compress.statistics import collect
from deploy.engine import Runtime
from deploy.engines import build_engine, load_engine, read_spec
from deploy.onnx_export import export_float, export_quantized
from deploy.verify import engine_predict
from workloads.embedded.pictures import read_picture
from workloads.loading import load_checkpoint
from workloads.super_resolution.bicubic import upscale as bicubic
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.network_format import to_network, to_rgb
from workloads.super_resolution.task import SuperResolution

PROFILE = "x86-avx512-vnni-bf16"


class Pooled(nn.Module):
    """An enlarger whose every output depends on the mean of the whole input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.scale = nn.Conv2d(3, 12, 1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        repeated = x.repeat_interleave(4, dim=1)
        attention = torch.sigmoid(self.scale(x.mean((2, 3), keepdim=True)))
        enlarged: Tensor = self.shuffle(repeated + 0.1 * self.conv(x) * attention)
        return enlarged


def enlarger(data: Path, name: str) -> tuple[nn.Module, SRFormat]:
    """The network of a checkpoint, and what it takes and gives."""
    loaded = load_checkpoint(data / "checkpoints" / f"{name}.pth")
    assert isinstance(loaded.workload, SuperResolution)
    return loaded.module, loaded.workload.io


def upscaled_apart(engine: Path, source: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`bitwright upscale --json` in a process of its own, which begins with nothing in memory."""
    words = ("upscale", engine, source, "--out", out, "--threads", "1", "--json", *more)
    whole_command = [sys.executable, "-m", "bitwright", *map(str, words)]
    done = subprocess.run(whole_command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def float_engine(network: nn.Module, io: SRFormat | None, folder: Path, runtime: Runtime = Runtime.ONNXRUNTIME) -> Path:
    """An engine folder of a float network."""
    example = torch.rand(1, 3 if io is None else io.channels, 32, 32)
    folder.mkdir(parents=True)
    export_float(capture(network, example), example, folder / "model.onnx")
    build_engine(folder / "model.onnx", folder, runtime=runtime, profile=PROFILE, super_resolution=io)
    return folder


def int8_engine(network: nn.Module, io: SRFormat, folder: Path, runtime: Runtime) -> Path:
    """An engine folder of a network with every layer in int8, calibrated on a photograph."""
    example = SuperResolution(io).example_input(96, 96)
    graph = prepare(capture(network, example))
    plan = Plan(
        architecture=type(network).__name__,
        device=PROFILE,
        runtime=runtime.value,
        float_precision="fp32",
        placement=default_placement(runtime),
        layers={name: LayerPlan(weight=W8, activation=A8) for name, _ in layer_nodes(graph)},
    )
    seen = collect(graph, example, {site.tensor.name for site in place(graph, plan)})
    folder.mkdir(parents=True)
    export_quantized(set_ranges(graph, plan, seen, RangeMethod.MINMAX), example, folder / "model.onnx")
    build_engine(folder / "model.onnx", folder, runtime=runtime, profile=PROFILE, super_resolution=io)
    return folder


def whole(engine: Path, picture: np.ndarray) -> np.ndarray:
    """The enlarged picture without tiles, uint8."""
    io = read_spec(engine).super_resolution
    assert io is not None
    output = engine_predict(load_engine(engine, 1))(to_network(picture, io))
    return to_rgb(output, io, bicubic(picture, io.scale))


def photo(height: int, width: int) -> np.ndarray:
    """A part of a photograph, uint8 [height, width, 3]."""
    return read_picture("astronaut.png")[40 : 40 + height, 60 : 60 + width]


def save(folder: Path, **pictures: np.ndarray) -> Path:
    """A folder of PNG files; double underscores in names are slashes."""
    for name, pixels in pictures.items():
        path = folder / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def pixels(path: Path) -> np.ndarray:
    """The samples of a picture as they are."""
    with Image.open(path) as image:
        return np.asarray(image)
