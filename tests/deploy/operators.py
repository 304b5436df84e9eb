"""Operators that a runtime must compute as torch does: each behind a convolution, in float and on integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

from deploy.engine import FloatPrecision, Runtime
from deploy.engines.litert_nodes import Executed, executed_nodes
from deploy.engines.litert_session import LiteRtSession
from deploy.tflite import compile_file
from deploy.torch_aot.network import OnnxNetwork

SIZES = ((24, 32), (27, 35))


class Call(nn.Module):
    """A convolution and a function behind it."""

    def __init__(self, function, channels: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x))


def channel_shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def uneven_split(x: Tensor) -> Tensor:
    few, many = torch.split(x, (3, 5), dim=1)
    return torch.cat([many, few * 2.0, many[:, 1:3]], 1)


def resized_to_another(x: Tensor) -> Tensor:
    small = functional.max_pool2d(x, 7, 3)
    return x * functional.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False)


OPERATORS = {
    "depthwise, two outputs for each input": nn.Conv2d(8, 16, 3, padding=1, groups=8),
    "depthwise, stride 2": nn.Conv2d(8, 8, 5, padding=2, stride=2, groups=8),
    "groups": nn.Conv2d(8, 12, 3, padding=1, groups=4),
    "stride 2, padded on all sides": nn.Conv2d(8, 8, 3, padding=1, stride=2),
    "padded by more than SAME": nn.Conv2d(8, 8, 3, padding=3),
    "dilation": nn.Conv2d(8, 8, 3, padding=2, dilation=2),
    "window of 1 x 5": nn.Conv2d(8, 8, (1, 5), padding=(0, 2)),
    "transposed, output padding": nn.ConvTranspose2d(8, 2, 9, 4, 4, 3),
    "transposed, plain": nn.ConvTranspose2d(8, 4, 2, 2),
    "transposed, cut": nn.ConvTranspose2d(8, 4, 4, 2, 1),
    "max pool, padded": nn.MaxPool2d(3, 2, 1),
    "average pool": nn.AvgPool2d(2),
    "mean and linear": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    "nearest, doubled": nn.Upsample(scale_factor=2, mode="nearest"),
    "nearest, three times": nn.Upsample(scale_factor=3, mode="nearest"),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear, corners aligned": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "a slope for each channel": nn.PReLU(8),
    "relu6": nn.ReLU6(),
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "square root": lambda x: torch.sqrt(torch.relu(x) + 0.5),
    "quotient": lambda x: x / (torch.sigmoid(x) + 1.0),
    "contrast": lambda x: x - x.mean((2, 3), keepdim=True),
    "many joined": lambda x: torch.cat([x, x * 2.0, x - 1.0, torch.tanh(x), x + x, torch.sigmoid(x)], 1),
    "split and joined": uneven_split,
    "channel shuffle": channel_shuffle,
    "shuffle behind a convolution": nn.PixelShuffle(2),
    "shuffle behind a sum": lambda x: functional.pixel_shuffle(x + torch.relu(x), 2),
    "resized to another tensor": resized_to_another,
}  # fmt: skip


def set_parameters() -> None:
    """Give all operators the same small parameters each time."""
    torch.manual_seed(4)
    for operator in OPERATORS.values():
        for parameter in operator.parameters() if isinstance(operator, nn.Module) else ():
            nn.init.uniform_(parameter, -0.4, 0.4)


def sample(height: int, width: int) -> Tensor:
    """Two pictures of 3 channels, the same for a size each time."""
    return torch.rand((2, 3, height, width), generator=torch.Generator().manual_seed(height))


def reference(path: Path, x: np.ndarray) -> np.ndarray:
    """What an ONNX file computes, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    result: np.ndarray = onnxruntime.InferenceSession(str(path), options).run(None, {"input": x})[0]
    return result


def run_litert(path: Path, x: np.ndarray) -> np.ndarray:
    return LiteRtSession(compile_file(path, x.shape), 1, name=path.name).run(x)


def run_torch(path: Path, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        result: np.ndarray = OnnxNetwork(path, FloatPrecision.FP32).eval()(torch.from_numpy(x)).numpy()
    return result


RUNS = {Runtime.LITERT: run_litert, Runtime.TORCH: run_torch}
"""How a file runs as each of our own compilers reads it; torch's operators are run before they are compiled."""


def first_precision(runtime: Runtime, path: Path, shape: tuple[int, ...]) -> str:
    """What the convolution of a `Call` executes in."""
    if runtime is Runtime.TORCH:
        return "int8" if "first" in OnnxNetwork(path, FloatPrecision.FP32).quantized else "fp32"
    session = LiteRtSession(compile_file(path, shape), 1, name="")
    nodes = executed_nodes(Executed.model_validate(session.executed()), {"first": None})
    (precision,) = [node.precision for node in nodes if "first" in node.origins]
    return precision
