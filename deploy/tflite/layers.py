"""Layers with weights: convolutions, transposed convolutions and matrix products, on integers where all fits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx

from deploy.onnx_attributes import number, numbers, text
from deploy.onnx_layers import node_key
from deploy.tflite.flatbuffer import Scales
from deploy.tflite.lowering import JOIN, Goal, Lowering
from deploy.tflite.padding import Windows, padded
from deploy.tflite.values import Quant, Value, unsupported

_LARGEST_BIAS = 2**31 - 1
_STEPS = 256
"""XNNPACK takes no integer layer of which one step of the sum is so many steps of the output, or more."""


class _Layer(NamedTuple):
    """The input of a layer's operator as a tensor of the file, and what it makes; both `quant` are None in float."""

    goal: Goal
    x: int
    x_quant: Quant | None
    quant: Quant | None


def convolution(low: Lowering, node: onnx.NodeProto) -> None:
    """Conv in two dimensions, with groups, strides, dilation and any padding."""
    x, weight = low.value(node), _weight(low, node)
    groups, outputs = int(number(node, "group", 1)), weight.shape[0]
    windows = Windows.of(node, weight.shape[2:])
    layer = _layer(low, node, x, channel_axis=0)
    over = padded(low, node, layer.x, x.shape, layer.x_quant, windows)
    options = {
        "padding": over.padding, "strideH": windows.strides[0], "strideW": windows.strides[1],
        "dilationHFactor": windows.dilations[0], "dilationWFactor": windows.dilations[1],
        "fusedActivationFunction": layer.goal.activation,
    }  # fmt: skip
    if groups == x.shape[3] > 1:
        code, order, table = "DEPTHWISE_CONV_2D", (1, 2, 3, 0), "DepthwiseConv2DOptions"
        options["depthMultiplier"] = outputs // groups
    else:
        code, order, table = "CONV_2D", (0, 2, 3, 1), "Conv2DOptions"
    operands = _weight_and_bias(low, node, layer, order, channel_axis=0)
    shape = (x.shape[0], *over.made, outputs)
    made = low.emit(code, [over.tensor, *operands], layer.goal.name, shape, layer.quant, table, **options)
    low.put(layer.goal.output, shape, made, layer.quant)


def transposed_convolution(low: Lowering, node: onnx.NodeProto) -> None:
    """ConvTranspose in two dimensions; what its padding takes away is cut off behind it."""
    x, weight = low.value(node), _weight(low, node)
    if number(node, "group", 1) != 1 or any(d != 1 for d in numbers(node, "dilations", (1, 1))):
        raise unsupported(node, "only one group and no dilation")
    if text(node, "auto_pad", "NOTSET") != "NOTSET" or "output_shape" in [a.name for a in node.attribute]:
        raise unsupported(node, "its padding is not explicit")
    windows = Windows.of(node, weight.shape[2:])
    pads, extra = numbers(node, "pads", (0, 0, 0, 0)), numbers(node, "output_padding", (0, 0))
    full = [(n - 1) * s + k for n, s, k in zip(x.shape[1:3], windows.strides, windows.size, strict=True)]
    kept = [size - pads[i] - pads[i + 2] + extra[i] for i, size in enumerate(full)]
    if any(pads[i] + kept[i] > full[i] for i in range(2)):
        raise unsupported(node, "its output padding is larger than its padding")
    layer = _layer(low, node, x, channel_axis=1)
    weight_index, bias = _weight_and_bias(low, node, layer, (1, 2, 3, 0), channel_axis=1)
    name, shape = layer.goal.name, (x.shape[0], *full, weight.shape[1])
    inputs = [low.sizes(f"{name}.shape", shape), weight_index, layer.x, bias]
    made = low.emit(
        "TRANSPOSE_CONV", inputs, name, shape, layer.quant, "TransposeConvOptions", padding="VALID",
        strideH=windows.strides[0], strideW=windows.strides[1], fusedActivationFunction=layer.goal.activation,
    )  # fmt: skip
    if kept != full:
        shape = (x.shape[0], *kept, weight.shape[1])
        ends = [low.sizes(f"{name}.begin", (0, *pads[:2], 0)), low.sizes(f"{name}.size", shape)]
        made = low.emit("SLICE", [made, *ends], f"cut{JOIN}{name}", shape, layer.quant, "SliceOptions")
    low.put(layer.goal.output, shape, made, layer.quant)


def matrix_product(low: Lowering, node: onnx.NodeProto) -> None:
    """Gemm and MatMul of an activation [N, K] with a constant matrix."""
    x, weight = low.value(node), _weight(low, node)
    plain = number(node, "alpha", 1) == 1 and number(node, "beta", 1) == 1 and number(node, "transA", 0) == 0
    if len(x.shape) != 2 or weight.ndim != 2 or not plain:
        raise unsupported(node, "only a product [N, K] x [K, M] with a constant second factor")
    order, channel_axis = ((0, 1), 0) if number(node, "transB", 0) else ((1, 0), 1)
    layer = _layer(low, node, x, channel_axis)
    operands = _weight_and_bias(low, node, layer, order, channel_axis)
    shape = (x.shape[0], weight.shape[channel_axis])
    made = low.emit(
        "FULLY_CONNECTED", [layer.x, *operands], layer.goal.name, shape, layer.quant, "FullyConnectedOptions",
        fusedActivationFunction=layer.goal.activation,
    )  # fmt: skip
    low.put(layer.goal.output, shape, made, layer.quant)


def _weight(low: Lowering, node: onnx.NodeProto) -> np.ndarray:
    weight = low.constant(node.input[1])
    if weight is None:
        raise unsupported(node, "its weight is not constant")
    return weight


def _layer(low: Lowering, node: onnx.NodeProto, x: Value, channel_axis: int) -> _Layer:
    """On integers where input, weight and output have the form that the kernels need; none has a float output."""
    goal, weight = low.goal(node, fuse=True), low.weights.get(node.input[1])
    if x.whole is None or x.quant is None or goal.quant is None or weight is None:
        return _Layer(goal, low.real(x), None, None)
    steps = x.quant.scale * float(weight.scale.max()) / goal.quant.scale
    if not weight.fits_kernel(channel_axis) or steps >= _STEPS:
        return _Layer(goal, low.real(x), None, None)
    return _Layer(goal, x.whole, x.quant, goal.quant)


def _weight_and_bias(
    low: Lowering, node: onnx.NodeProto, layer: _Layer, order: tuple[int, ...], channel_axis: int
) -> tuple[int, int]:
    """Both as constants of the file; `order`: the axes of the weight there."""
    key, weight = node_key(node), _weight(low, node)
    channels = weight.shape[channel_axis]
    given = node.input[2] if len(node.input) > 2 and node.input[2] else None
    bias = np.zeros(channels, np.float32) if given is None else low.constant(given)
    if bias is None or bias.size not in {1, channels}:
        raise unsupported(node, "its bias is not one constant for each channel")
    bias = np.broadcast_to(bias.reshape(-1), (channels,))
    if layer.x_quant is None:
        laid_out = weight.astype(np.float32).transpose(order)
        return low.file.constant(f"{key}.weight", laid_out), low.file.constant(f"{key}.bias", bias.astype(np.float32))
    stored = low.weights[node.input[1]]
    scale = np.broadcast_to(stored.scale.reshape(-1), (channels,)).astype(np.float32)
    steps = (np.float32(layer.x_quant.scale) * scale).astype(np.float32)
    scales = Scales(scale, 0, order.index(channel_axis))
    integers = np.clip(np.rint(bias.astype(np.float64) / steps), -_LARGEST_BIAS, _LARGEST_BIAS).astype(np.int32)
    exported = low.weights.get(given or "")
    if exported is not None and exported.values.size == channels and np.allclose(exported.scale, steps, rtol=1e-6):
        integers = exported.values.reshape(-1).astype(np.int32)
    weight_index = low.file.constant(f"{key}.weight", stored.values.transpose(order), scales)
    return weight_index, low.file.constant(f"{key}.bias", integers, Scales(steps))
