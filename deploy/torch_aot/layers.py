"""Convolutions and matrix products: on integers or in fp8 where input and weight are quantised, else in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional

from deploy.onnx_attributes import number, numbers, text
from deploy.onnx_layers import LAYER_OPS
from deploy.torch_aot.products import has_product, product, product_constants
from deploy.torch_aot.quantisers import doubled, stored, weight
from deploy.torch_aot.values import Integers, LayerConstants, Value, Values, constant, in_type, unsupported


def prepare(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray], floats: torch.dtype, *, on_gpu: bool
) -> dict[str, LayerConstants]:
    """The constants of each layer with a constant weight, by the first output of its node, in network order.

    Where there is no kernel for what a layer is quantised to, they are in float.
    """
    producers = {output: node for node in nodes for output in node.output}
    made: dict[str, LayerConstants] = {}
    for node in (node for node in nodes if node.op_type in LAYER_OPS):
        read = _constant(node.input[1], producers, constants)
        if read is None:
            continue
        turned = node.op_type == "MatMul" or (node.op_type == "Gemm" and not number(node, "transB", 0))
        parts = _parts(read, turned)
        bias = _bias(node, producers, constants, parts)
        source = producers.get(node.input[0])
        quantized = source is not None and source.op_type == "DequantizeLinear"
        if on_gpu and isinstance(parts, Integers) and has_product(node, parts, source, constants):
            made[node.output[0]] = product_constants(parts, bias, floats)
        elif not on_gpu and isinstance(parts, Integers) and quantized and parts.fits_kernel(0) and _has_kernel(node):
            channels = parts.values.shape[0]
            scale, zero = parts.scale.expand(channels).contiguous(), torch.zeros(channels, dtype=torch.int32)
            made[node.output[0]] = LayerConstants(parts.values.contiguous(), bias, floats, scale, zero)
        else:
            reals = parts.reals if isinstance(parts, Integers) else parts
            made[node.output[0]] = LayerConstants(reals.to(floats).contiguous(), bias.to(floats), floats)
    return made


def quantized_convolutions(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray]
) -> tuple[onnx.NodeProto, ...]:
    """The convolutions whose weight is quantised."""
    producers = {output: node for node in nodes for output in node.output}
    convolutions = (node for node in nodes if node.op_type in {"Conv", "ConvTranspose"})
    return tuple(node for node in convolutions if isinstance(_constant(node.input[1], producers, constants), Integers))


def _has_kernel(node: onnx.NodeProto) -> bool:
    """Whether there is an integer kernel; transposed convolutions have none, nor has a padding that is not even."""
    if node.op_type == "ConvTranspose":
        return False
    pads = numbers(node, "pads", (0, 0, 0, 0))
    return node.op_type != "Conv" or pads[: len(pads) // 2] == pads[len(pads) // 2 :]


def _constant(
    name: str, producers: Mapping[str, onnx.NodeProto], constants: Mapping[str, np.ndarray]
) -> Tensor | Integers | None:
    """A weight or bias that is a constant, possibly behind DequantizeLinear and Transpose."""
    if name in constants:
        return constant(constants[name])
    node = producers.get(name)
    if node is None:
        return None
    if node.op_type == "DequantizeLinear" and node.input[0] in constants:
        return stored(node, constants)
    if node.op_type == "Transpose":
        behind = _constant(node.input[0], producers, constants)
        if isinstance(behind, Integers):
            order = numbers(node, "perm", tuple(reversed(range(behind.values.dim()))))
            return Integers(behind.values.permute(order), behind.scale, behind.zero, order.index(behind.axis))
        return None if behind is None else behind.permute(numbers(node, "perm", tuple(reversed(range(behind.dim())))))
    return None


def _parts(read: Tensor | Integers, turned: bool) -> Tensor | Integers:
    """A weight with its output channels along the first axis."""
    if not turned:
        return read
    if isinstance(read, Integers):
        return Integers(read.values.t().contiguous(), read.scale, read.zero, 1 - read.axis)
    return read.t().contiguous()


def _bias(
    node: onnx.NodeProto,
    producers: Mapping[str, onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    parts: Tensor | Integers,
) -> Tensor:
    """The bias in float32. Zeros where there is none: by its bias a layer is found again in compiled code."""
    if len(node.input) > 2 and node.input[2]:
        read = _constant(node.input[2], producers, constants)
        if read is None:
            raise unsupported(node, "its bias is not a constant")
        return (read.reals if isinstance(read, Integers) else read).reshape(-1)
    weights = parts.values if isinstance(parts, Integers) else parts
    groups = int(number(node, "group", 1))
    return torch.zeros(weights.shape[1] * groups if node.op_type == "ConvTranspose" else weights.shape[0])


def _operands(values: Values, node: onnx.NodeProto) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and bias in the type that the layer computes in."""
    x, constants = values.tensor(node), values.layers[node.output[0]]
    if constants.scale is None or constants.zero is None:
        return in_type(x, constants.floats), constants.weight, constants.bias
    return in_type(x, torch.float32), weight(constants.weight, constants.scale, constants.zero), constants.bias


def convolution(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Conv over height and width."""
    _require(values, node)
    x, kernel, bias = _operands(values, node)
    if kernel.dim() != 4 or text(node, "auto_pad", "NOTSET") != "NOTSET":
        raise unsupported(node, "only convolutions over height and width, with their padding as numbers")
    if kernel.shape[1] == 1 and number(node, "group", 1) == 1 and node.input[0] in values.quantizers:
        # Of a single channel no strides tell that it comes last, and Inductor then expects another order of the result
        # than oneDNN gives. The second one has no weight.
        layer = values.layers[node.output[0]]
        if layer.scale is not None and layer.zero is not None:
            x = doubled(values, node.input[0], x)
            kernel = weight(functional.pad(layer.weight, (0, 0, 0, 0, 0, 1)), layer.scale, layer.zero)
    top, left, bottom, right = numbers(node, "pads", (0, 0, 0, 0))
    padding = [top, left]
    if (top, left) != (bottom, right):
        x, padding = functional.pad(x, (left, right, top, bottom)), [0, 0]
    strides, dilations = (list(numbers(node, name, (1, 1))) for name in ("strides", "dilations"))
    return [functional.conv2d(x, kernel, bias, strides, padding, dilations, int(number(node, "group", 1)))]


def transposed_convolution(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """ConvTranspose over height and width."""
    _require(values, node)
    x, kernel, bias = _operands(values, node)
    top, left, bottom, right = numbers(node, "pads", (0, 0, 0, 0))
    given = text(node, "auto_pad", "NOTSET") == "NOTSET" and not numbers(node, "output_shape", ())
    if kernel.dim() != 4 or not given or (top, left) != (bottom, right):
        raise unsupported(node, "only transposed convolutions over height and width that are padded alike on all sides")
    strides, dilations = (list(numbers(node, name, (1, 1))) for name in ("strides", "dilations"))
    added = list(numbers(node, "output_padding", (0, 0)))
    groups = int(number(node, "group", 1))
    return [functional.conv_transpose2d(x, kernel, bias, strides, [top, left], added, groups, dilations)]


def matrix_product(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Gemm and MatMul, with a constant or with another activation."""
    if node.output[0] not in values.layers:
        if node.op_type == "Gemm":
            raise unsupported(node, "its weight is not a constant")
        left, right = (in_type(values.tensor(node, index), values.floats) for index in (0, 1))
        return [torch.matmul(left, right)]
    if number(node, "transA", 0) or number(node, "alpha", 1) != 1 or number(node, "beta", 1) != 1:
        raise unsupported(node, "only x W + b")
    layer, name = values.layers[node.output[0]], node.input[0]
    if layer.scale is not None and layer.zero is None:
        return [product(values.stored[name], values.quantizers[name][0], layer)]
    return [functional.linear(*_operands(values, node))]


def _require(values: Values, node: onnx.NodeProto) -> None:
    if node.output[0] not in values.layers:
        raise unsupported(node, "its weight is not a constant")
