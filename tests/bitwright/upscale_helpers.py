"""What the tests of upscaling share: small engines that are really built, and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from compress.graph import capture, layer_nodes
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.preparation import prepare
from compress.quantizers import A8, W8
from compress.ranges import RangeMethod, set_ranges
from compress.statistics import collect
from deploy.engine import Runtime
from deploy.engines import build_engine
from deploy.onnx_export import export_float, export_quantized
from workloads.embedded.pictures import read_picture
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.task import SuperResolution

PROFILE = "x86-avx512-vnni-bf16"


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
    openvino = runtime is Runtime.OPENVINO
    plan = Plan(
        architecture=type(network).__name__,
        device=PROFILE,
        runtime=runtime.value,
        float_precision="fp32",
        placement=Placement.INPUTS if openvino else Placement.EVERYTHING,
        layers={name: LayerPlan(weight=W8, activation=A8) for name, _ in layer_nodes(graph)},
    )
    seen = collect(graph, example, {site.tensor.name for site in place(graph, plan)})
    folder.mkdir(parents=True)
    export_quantized(set_ranges(graph, plan, seen, RangeMethod.MINMAX), example, folder / "model.onnx")
    build_engine(folder / "model.onnx", folder, runtime=runtime, profile=PROFILE, super_resolution=io)
    return folder


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
