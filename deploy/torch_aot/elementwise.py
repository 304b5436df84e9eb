"""Operators that compute each value by itself, and what computes sizes with the same operators."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional

from deploy.onnx_attributes import number
from deploy.torch_aot.values import Value, Values, in_type, unsupported

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Sqrt": torch.sqrt, "Abs": torch.abs,
    "Exp": torch.exp, "Neg": torch.neg, "HardSwish": functional.hardswish, "Erf": torch.erf,
}  # fmt: skip
BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": operator.truediv,
}  # fmt: skip


def unary(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """An operator of one activation."""
    return [UNARY[node.op_type](values.tensor(node))]


def binary(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """An operator of two tensors that can be broadcast, or of two lists of sizes."""
    left, right = (values.found[name] for name in node.input)
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        whole = operator.floordiv if node.op_type == "Div" else BINARY[node.op_type]
        return [np.asarray(whole(left, right))]
    return [BINARY[node.op_type](values.tensor(node), values.tensor(node, 1))]


def leaky_relu(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """LeakyRelu."""
    return [functional.leaky_relu(values.tensor(node), number(node, "alpha", 0.01))]


def hard_sigmoid(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """HardSigmoid: max(0, min(1, alpha x + beta))."""
    x = values.tensor(node)
    return [torch.clamp(x * number(node, "alpha", 0.2) + number(node, "beta", 0.5), 0, 1)]


def parametric_relu(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """PRelu with slopes that can be broadcast, as one for each channel can."""
    x, slope = values.tensor(node), values.tensor(node, 1)
    return [torch.where(x > 0, x, x * in_type(slope, x.dtype))]


def clamp(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Clip to constant limits."""
    x, low, high = values.tensor(node), values.limit(node, 1), values.limit(node, 2)
    if low is None and high is None:
        raise unsupported(node, "it has no limits")
    return [torch.clamp(x, low, high)]
