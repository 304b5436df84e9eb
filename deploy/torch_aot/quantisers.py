"""QuantizeLinear and DequantizeLinear: of integers as the operators that Inductor fuses into integer kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed  # registers the operators

from deploy.onnx_attributes import number
from deploy.onnx_formats import E4M3
from deploy.torch_aot.values import FP8, Integers, Value, Values, constant, has, in_type, unsupported

assert _decomposed is not None
_DTYPES = {"uint8": torch.uint8, "int8": torch.int8, E4M3: FP8}


def quantize(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """QuantizeLinear of an activation, one scale for the whole tensor."""
    x = values.tensor(node)
    scale, zero, dtype = _parameters(values, node)
    if dtype == FP8:
        largest = torch.finfo(FP8).max
        return [torch.clamp(in_type(x, torch.float32) / scale, -largest, largest).to(FP8)]
    limits = torch.iinfo(dtype)
    quantized = torch.ops.quantized_decomposed.quantize_per_tensor.default(
        in_type(x, torch.float32), scale, zero, limits.min, limits.max, dtype
    )
    return [quantized]


def dequantize(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """DequantizeLinear of an activation."""
    source = values.tensor(node)
    scale, zero, dtype = _parameters(values, node)
    if source.dtype != dtype:
        raise unsupported(node, "its zero point has another type than its input")
    values.quantizers[node.output[0]] = (scale, zero, dtype)
    values.stored[node.output[0]] = source
    if dtype == FP8:
        return [in_type(source, torch.float32) * scale]
    limits = torch.iinfo(dtype)
    real = torch.ops.quantized_decomposed.dequantize_per_tensor.default(
        source, scale, zero, limits.min, limits.max, dtype
    )
    return [real]


def doubled(values: Values, name: str, x: Tensor) -> Tensor:
    """A dequantised activation of one channel with that channel twice, quantised and dequantised as before."""
    scale, zero, dtype = values.quantizers[name]
    limits = torch.iinfo(dtype)
    pair = (scale, zero, limits.min, limits.max, dtype)
    whole = torch.ops.quantized_decomposed.quantize_per_tensor.default(torch.cat([x, x], 1), *pair)
    real: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor.default(whole, *pair)
    return real


def stored(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> Integers:
    """The constant that a DequantizeLinear makes of integers or of E4M3 values."""
    if any(name and name not in constants for name in node.input):
        raise unsupported(node, "its scale or zero point is not a constant")
    whole, scale, *zeros = (constant(constants[name]) for name in node.input if name)
    zero = zeros[0].reshape(-1) if zeros else torch.zeros(scale.numel(), dtype=whole.dtype)
    axis = int(number(node, "axis", 1)) % max(whole.dim(), 1)
    return Integers(whole, scale.reshape(-1).to(torch.float32), zero, axis)


def weight(values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """An int8 weight, one scale for each output channel (its first axis), as a quantised layer reads it."""
    real: Tensor = torch.ops.quantized_decomposed.dequantize_per_channel.default(
        values, scale, zero, 0, -128, 127, torch.int8
    )
    return real


def _parameters(values: Values, node: onnx.NodeProto) -> tuple[float, int, torch.dtype]:
    scale = values.constants.get(node.input[1])
    zero = values.constants.get(node.input[2]) if has(node, 2) else np.zeros((), np.uint8)
    if scale is None or zero is None or scale.size != 1:
        raise unsupported(node, "it does not have one constant scale and zero point")
    if zero.dtype.name not in _DTYPES:
        raise unsupported(node, f"there are no kernels for {zero.dtype}")
    return float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), _DTYPES[zero.dtype.name]
