"""Matrix products of a constant weight in int8 and in fp8, by the kernels that torch has of them on NVIDIA GPUs.

`torch._int_mm` multiplies int8 to int32; it takes more than 16 rows, and inputs and outputs in eights.
`torch._scaled_mm` multiplies E4M3 to float32, from compute capability 8.9 on; it takes inputs and outputs in sixteens.
Those are the checks of `_int_mm_out_cuda` and `_scaled_mm_out_cuda` in torch's `ATen/native/cuda`, where the second
operand is to lie column by column. What is missing is filled up with zeros, which add nothing. Both kernels exist on
processors as well, so that all of this but its speed can be tried there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional

from deploy.torch_aot.values import FP8, Integers, LayerConstants, constant, has, in_type

MULTIPLES = {torch.int8: 8, FP8: 16}
"""What inputs and outputs are multiples of, by the type of both operands."""
LEAST_ROWS = 17
"""Fewest rows that `_int_mm` takes."""


def has_product(
    node: onnx.NodeProto, weight: Integers, source: onnx.NodeProto | None, constants: Mapping[str, np.ndarray]
) -> bool:
    """Whether a kernel takes a layer. `weight`: [outputs, inputs]; `source`: the node that makes its input.

    Both operands are int8 or E4M3 around 0, the input with one scale and the weight with one, or one for each output.
    """
    if node.op_type not in {"Gemm", "MatMul"} or source is None or source.op_type != "DequantizeLinear":
        return False
    scale = constants.get(source.input[1])
    zero = constants.get(source.input[2]) if has(source, 2) else None
    if scale is None or scale.size != 1 or zero is None:
        return False
    point = constant(zero)
    same = point.dtype == weight.values.dtype and not bool(in_type(point, torch.float32).any())
    return same and weight.values.dtype in MULTIPLES and weight.around_zero(0)


def product_constants(weight: Integers, bias: Tensor, floats: torch.dtype) -> LayerConstants:
    """The constants of a layer that `has_product`: the weight as [inputs, outputs] column by column, filled up."""
    multiple = MULTIPLES[weight.values.dtype]
    outputs, inputs = weight.values.shape
    filled = torch.zeros(_up(outputs, multiple), _up(inputs, multiple), dtype=weight.values.dtype)
    filled[:outputs, :inputs] = weight.values
    one = torch.ones(()) if weight.values.dtype == FP8 else None
    return LayerConstants(filled.t(), bias, floats, weight.scale.expand(outputs).contiguous(), one=one)


def product(x: Tensor, step: float, layer: LayerConstants) -> Tensor:
    """x W + b in float32, [..., outputs]. `x`: what is stored of the input, [..., inputs]; `step`: its scale."""
    assert layer.scale is not None
    *others, inputs = x.shape
    rows, outputs = x.reshape(-1, inputs), layer.scale.shape[0]
    count, filled = rows.shape[0], layer.weight.shape[0] - inputs
    if layer.one is not None:
        # Of bytes, because fills of E4M3 are not to be had everywhere; 0.0 is the byte 0.
        rows = _filled(rows.view(torch.int8), filled, 0).view(FP8) if filled else rows
        made = torch._scaled_mm(rows, layer.weight, scale_a=layer.one, scale_b=layer.one, out_dtype=torch.float32)
    else:
        # A size that varies tells nothing while it is traced.
        known = math.prod(size for size in others if isinstance(size, int))
        made = torch._int_mm(_filled(rows, filled, max(LEAST_ROWS - known, 0)), layer.weight).to(torch.float32)
    real = made[:count, :outputs] * (layer.scale * step) + layer.bias
    return real.reshape(*others, outputs)


def _filled(rows: Tensor, columns: int, more: int) -> Tensor:
    return functional.pad(rows, (0, columns, 0, more)) if columns or more else rows


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
