"""Pooling, means, and resizing."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from torch.nn import functional

from deploy.onnx_attributes import attributes, number, numbers, text
from deploy.torch_aot.values import Value, Values, unsupported

_CUBIC = -0.75
"""The coefficient of torch's cubic interpolation."""


def max_pool(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """MaxPool with one output."""
    window, strides, padding = _windows(node)
    dilations = list(numbers(node, "dilations", (1, 1)))
    ceil = bool(number(node, "ceil_mode", 0))
    return [functional.max_pool2d(values.tensor(node), window, strides, padding, dilations, ceil)]


def average_pool(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """AveragePool."""
    window, strides, padding = _windows(node)
    ceil, counted = bool(number(node, "ceil_mode", 0)), bool(number(node, "count_include_pad", 0))
    return [functional.avg_pool2d(values.tensor(node), window, strides, padding, ceil, counted)]


def _windows(node: onnx.NodeProto) -> tuple[list[int], list[int], list[int]]:
    window = list(numbers(node, "kernel_shape", ()))
    pads = numbers(node, "pads", (0, 0, 0, 0))
    even = pads[: len(pads) // 2] == pads[len(pads) // 2 :] and text(node, "auto_pad", "NOTSET") == "NOTSET"
    if len(window) != 2 or not even or len(node.output) > 1:
        raise unsupported(node, "only one output, over height and width, padded alike on all sides")
    return window, list(numbers(node, "strides", (1, 1))), list(pads[:2])


def mean(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """ReduceMean and GlobalAveragePool."""
    x = values.tensor(node)
    given = values.sizes(node, 1)
    axes = numbers(node, "axes", tuple(range(2, x.dim()))) if given is None else given
    return [torch.mean(x, [int(axis) for axis in axes], keepdim=bool(number(node, "keepdims", 1)))]


def resize(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Resize of height and width in the ways that torch has: nearest, linear and cubic."""
    x = values.tensor(node)
    mode, place = text(node, "mode", "nearest"), text(node, "coordinate_transformation_mode", "half_pixel")
    if x.dim() != 4 or "axes" in attributes(node) or number(node, "antialias", 0):
        raise unsupported(node, "only height and width of a picture")
    sizes = values.sizes(node, 3)
    scales = values.numbers(node, 2) if sizes is None else None
    if (sizes is None) == (scales is None):
        raise unsupported(node, "its size is not constant")
    size = None if sizes is None else sizes[2:]
    factor = None if scales is None else scales[2:]
    if mode == "nearest":
        if place != "asymmetric" or text(node, "nearest_mode", "round_prefer_floor") != "floor":
            raise unsupported(node, f"nearest by {place} has no counterpart")
        return [functional.interpolate(x, size, factor, "nearest")]
    corners = place == "align_corners"
    cubic = mode == "cubic"
    if (not corners and place not in {"half_pixel", "pytorch_half_pixel"}) or mode not in {"linear", "cubic"}:
        raise unsupported(node, f"{mode} by {place} has no counterpart")
    if cubic and (number(node, "cubic_coeff_a", _CUBIC) != _CUBIC or number(node, "exclude_outside", 0)):
        raise unsupported(node, "its cubic interpolation has other coefficients")
    return [functional.interpolate(x, size, factor, "bicubic" if cubic else "bilinear", align_corners=corners)]
