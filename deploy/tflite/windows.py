"""Pooling, means over whole pictures, and resizing."""

from __future__ import annotations

import math

import onnx

from deploy.onnx_attributes import attributes, number, numbers, text
from deploy.onnx_layers import node_key
from deploy.tflite.lowering import JOIN, Lowering
from deploy.tflite.padding import Padded, Windows, padded
from deploy.tflite.values import Quant, Value, unsupported

_BILINEAR = {
    "half_pixel": {"halfPixelCenters": True}, "pytorch_half_pixel": {"halfPixelCenters": True},
    "align_corners": {"alignCorners": True}, "asymmetric": {},
}  # fmt: skip
"""How the runtime calls the ways in which a pixel of the result finds its place in the source."""


def max_pool(low: Lowering, node: onnx.NodeProto) -> None:
    """MaxPool; the largest integer stands for the largest real, so it stays on integers with their scale."""
    x = low.value(node)
    source, quant = low.either(x)
    windows = _pool_windows(node)
    over = padded(low, node, source, x.shape, quant, windows, lowest=True)
    _pool(low, node, x, "MAX_POOL_2D", windows, over, quant)


def average_pool(low: Lowering, node: onnx.NodeProto) -> None:
    """AveragePool without padding; in float, because integers would be rounded twice."""
    x = low.value(node)
    if any(numbers(node, "pads", (0, 0, 0, 0))):
        raise unsupported(node, "padded values count differently there")
    windows = _pool_windows(node)
    over = padded(low, node, low.real(x), x.shape, None, windows)
    _pool(low, node, x, "AVERAGE_POOL_2D", windows, over, None)


def _pool_windows(node: onnx.NodeProto) -> Windows:
    windows = Windows.of(node, numbers(node, "kernel_shape", ()))
    if number(node, "ceil_mode", 0) or windows.dilations != (1, 1) or len(node.output) > 1:
        raise unsupported(node, "only one output, no dilation, and sizes rounded down")
    return windows


def _pool(
    low: Lowering, node: onnx.NodeProto, x: Value, code: str, windows: Windows, over: Padded, quant: Quant | None
) -> None:
    shape = (x.shape[0], *over.made, x.shape[3])
    made = low.emit(
        code, [over.tensor], node_key(node), shape, quant, "Pool2DOptions", padding=over.padding,
        strideH=windows.strides[0], strideW=windows.strides[1],
        filterHeight=windows.size[0], filterWidth=windows.size[1],
    )  # fmt: skip
    low.put(node.output[0], shape, made, quant)


def mean(low: Lowering, node: onnx.NodeProto) -> None:
    """ReduceMean and GlobalAveragePool over height and width."""
    x, goal = low.value(node), low.goal(node)
    given = low.constants.get(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    axes = numbers(node, "axes", (2, 3)) if given is None else tuple(given.reshape(-1).tolist())
    if len(x.shape) != 4 or sorted(axis % 4 for axis in axes) != [2, 3]:
        raise unsupported(node, "only a mean over height and width")
    quant = goal.quant if x.whole is not None else None
    source = low.real(x) if quant is None else x.whole
    assert source is not None
    shape = (x.shape[0], 1, 1, x.shape[3])
    over = low.sizes(f"{goal.name}.axes", (1, 2))
    made = low.emit("MEAN", [source, over], goal.name, shape, quant, "ReducerOptions", keepDims=True)
    if number(node, "keepdims", 1) == 0:
        shape = (shape[0], shape[3])  # type: ignore[assignment]
        made = low.reshaped(made, shape, f"squeezed{JOIN}{goal.name}", quant)
    low.put(goal.output, shape, made, quant)


def resize(low: Lowering, node: onnx.NodeProto) -> None:
    """Resize: linear in float, because integers would be rounded twice; nearest by whole factors as it is."""
    x = low.value(node)
    height, width = _new_size(low, node, x)
    shape = (x.shape[0], height, width, x.shape[3])
    mode, place = text(node, "mode", "nearest"), text(node, "coordinate_transformation_mode", "half_pixel")
    size = low.sizes(f"{node_key(node)}.size", (height, width))
    if mode == "linear" and place in _BILINEAR and not number(node, "antialias", 0):
        made = low.emit(
            "RESIZE_BILINEAR", [low.real(x), size], node_key(node), shape, None, "ResizeBilinearOptions",
            **_BILINEAR[place],
        )  # fmt: skip
        low.put(node.output[0], shape, made)
        return
    whole = height % x.shape[1] == 0 and width % x.shape[2] == 0
    floor = place == "asymmetric" and text(node, "nearest_mode", "round_prefer_floor") == "floor"
    if mode != "nearest" or not whole or not floor:
        raise unsupported(node, f"{mode} by {place}, to {height} x {width}, has no counterpart")
    source, quant = low.either(x)
    if (height, width) == (2 * x.shape[1], 2 * x.shape[2]):
        made = _doubled(low, node_key(node), source, x.shape, quant)
    else:
        made = low.emit(
            "RESIZE_NEAREST_NEIGHBOR", [source, size], node_key(node), shape, quant, "ResizeNearestNeighborOptions"
        )
    low.put(node.output[0], shape, made, quant)


def _doubled(low: Lowering, key: str, source: int, shape: tuple[int, ...], quant: Quant | None) -> int:
    """Each pixel as a block of 2 x 2: four copies of its channels, moved into space; XNNPACK resizes no nearest."""
    n, h, w, c = shape
    copies = low.emit(
        "CONCATENATION", [source] * 4, f"copies{JOIN}{key}", (n, h, w, 4 * c), quant, "ConcatenationOptions", axis=3
    )
    return low.emit("DEPTH_TO_SPACE", [copies], key, (n, 2 * h, 2 * w, c), quant, "DepthToSpaceOptions", blockSize=2)


def _new_size(low: Lowering, node: onnx.NodeProto, x: Value) -> tuple[int, int]:
    """Height and width of the result; scales must be its exact ratio to the source."""
    if len(x.shape) != 4 or "axes" in attributes(node):
        raise unsupported(node, "only height and width of a picture")
    old = x.onnx_shape
    scales, sizes = (low.constants.get(name) if name else None for name in (*node.input[2:4], "", "")[:2])
    if sizes is not None and sizes.size == 4:
        new = tuple(sizes.reshape(-1).tolist())
    elif scales is not None and scales.size == 4:
        new = tuple(math.floor(n * float(s)) for n, s in zip(old, scales, strict=True))
        if any(n * float(s) != m for n, s, m in zip(old, scales, new, strict=True)):
            raise unsupported(node, f"its scales give no whole size for {list(old)}")
    else:
        raise unsupported(node, "its size is not constant")
    if new[:2] != old[:2]:
        raise unsupported(node, "only height and width can change")
    return int(new[2]), int(new[3])
