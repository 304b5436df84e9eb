"""Each operator that the compiler writes, in LiteRT against torch or ONNX Runtime, in float and on integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitwright.foundation.errors import UsageError
from compress.graph import capture
from compress.plan import Placement
from deploy.engines.litert_nodes import executed_nodes
from deploy.engines.litert_session import LiteRtSession
from deploy.onnx_export import export_float, export_quantized
from deploy.tflite import compile_file
from tests.deploy.qdq_networks import Sketch

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'bitwright[edge]'")

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


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(4)
    for operator in OPERATORS.values():
        for parameter in operator.parameters() if isinstance(operator, nn.Module) else ():
            nn.init.uniform_(parameter, -0.4, 0.4)


def run(path: Path, x: np.ndarray) -> np.ndarray:
    return LiteRtSession(compile_file(path, x.shape), 1, name=path.name).run(x)


def reference(path: Path, x: np.ndarray) -> np.ndarray:
    """What the file computes, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    result: np.ndarray = onnxruntime.InferenceSession(str(path), options).run(None, {"input": x})[0]
    return result


def sample(height: int, width: int) -> Tensor:
    return torch.rand((2, 3, height, width), generator=torch.Generator().manual_seed(height))


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
    nodes = executed_nodes(LiteRtSession(compile_file(path, x.shape), 1, name="").interpreter, {"first": None})
    # No kernel clamps to limits of one's own between its sum and its rounding.
    expected = "fp32" if name == "clamp" else "int8"
    assert [node.precision for node in nodes if "first" in node.origins] == [expected]


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_both_orders_of_depth_to_space(mode: str, tmp_path: Path) -> None:
    for behind in ("Tanh", "Concat"):
        sketch = Sketch()
        made = sketch.conv("input", "first", 3)
        # Behind a convolution channels may be made in another order; what is joined must be moved.
        joined = [made] if behind == "Tanh" else [made, sketch.node("Sigmoid", [made], "other")]
        moved = sketch.node(behind, joined, "step", **({"axis": 1} if behind == "Concat" else {}))
        path = tmp_path / f"{behind}.onnx"
        onnx.save(sketch.file(sketch.node("DepthToSpace", [moved], "shuffle", blocksize=2, mode=mode)), path)
        x = sample(9, 7).numpy() - 0.5
        np.testing.assert_allclose(run(path, x), reference(path, x), atol=2e-6)


def test_a_convolution_with_another_reader_keeps_its_order(tmp_path: Path) -> None:
    sketch = Sketch()
    made = sketch.conv("input", "first", 3)
    shuffled = sketch.node("DepthToSpace", [made], "shuffle", blocksize=2, mode="CRD")
    pooled = sketch.node("GlobalAveragePool", [made], "pool")
    picked = sketch.node("Slice", [pooled, *(sketch.constant(n, np.asarray([v])) for n, v in
                                            (("from", 1), ("to", 5), ("axis", 1)))], "pick")  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(sketch.file(sketch.node("Mul", [shuffled, picked], "scaled")), path)
    x = sample(8, 8).numpy()
    np.testing.assert_allclose(run(path, x), reference(path, x), rtol=2e-6, atol=2e-6)


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
        ("ReduceMean", {"keepdims": 0}, "only a mean over height and width"),
        ("MaxPool", {"kernel_shape": [2, 2], "ceil_mode": 1}, "rounded down"),
        ("MaxPool", {"kernel_shape": [40, 40]}, "does not fit"),
        ("Transpose", {"perm": [0, 3, 2, 1]}, ""),
    ],
)
def test_an_operator_without_counterpart_is_one_line_that_names_it(
    op: str, attributes: dict, says: str, tmp_path: Path
) -> None:
    sketch = Sketch()
    extra = [sketch.constant("axes", np.asarray([1]))] if op == "ReduceMean" else []
    path = tmp_path / "net.onnx"
    onnx.save(sketch.file(sketch.node(op, [sketch.conv("input", "first", 3), *extra], "odd", **attributes)), path)
    x = sample(24, 24).numpy()
    if not says:
        np.testing.assert_allclose(run(path, x), reference(path, x), atol=1e-5)
        return
    with pytest.raises(UsageError, match=rf"LiteRT cannot run node 'odd' \({op}\): .*{says}") as caught:
        compile_file(path, x.shape)
    assert "\n" not in str(caught.value)
