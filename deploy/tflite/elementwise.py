"""Operators that compute each value by itself: on integers where the runtime has a kernel and all is quantised."""

from __future__ import annotations

import numpy as np
import onnx

from deploy.onnx_attributes import number
from deploy.onnx_layers import node_key
from deploy.tflite.lowering import Lowering
from deploy.tflite.values import NHWC, unsupported

UNARY = {
    "LeakyRelu": ("LEAKY_RELU", "LeakyReluOptions"), "Sigmoid": ("LOGISTIC", None), "Tanh": ("TANH", None),
    "Sqrt": ("SQRT", None), "Abs": ("ABS", "AbsOptions"), "Exp": ("EXP", "ExpOptions"), "Neg": ("NEG", "NegOptions"),
    "HardSwish": ("HARD_SWISH", "HardSwishOptions"),
}  # fmt: skip
BINARY = {
    "Add": ("ADD", "AddOptions"), "Sub": ("SUB", "SubOptions"), "Mul": ("MUL", "MulOptions"),
    "Div": ("DIV", "DivOptions"),
}  # fmt: skip
_ON_INTEGERS = frozenset({"LOGISTIC", "TANH", "ADD", "SUB", "MUL"})
"""What XNNPACK has exact integer kernels for; whatever else is quantised runs in float between two conversions.

Its LEAKY_RELU multiplies by factors of 8 bits, which moves 7 to 14 % of the values by a level; in float it adds 2 % to
the time of RFDN.
"""


def unary(low: Lowering, node: onnx.NodeProto) -> None:
    """An operator of one activation."""
    x, goal = low.value(node), low.goal(node)
    code, options = UNARY[node.op_type]
    values = {"alpha": number(node, "alpha", 0.01)} if code == "LEAKY_RELU" else {}
    quant = goal.quant if code in _ON_INTEGERS else None
    if x.whole is None or quant is None:
        made = low.emit(code, [low.real(x)], goal.name, x.shape, None, options, **values)
        low.put(goal.output, x.shape, made)
    else:
        made = low.emit(code, [x.whole], goal.name, x.shape, quant, options, **values)
        low.put(goal.output, x.shape, made, quant)


def binary(low: Lowering, node: onnx.NodeProto) -> None:
    """An operator of two activations, or of one and a constant, that can be broadcast."""
    code, options = BINARY[node.op_type]
    goal = low.goal(node, fuse=True)
    known = [low.values.get(name) for name in node.input]
    rank = max(len(value.shape) for value in known if value is not None)
    whole = [value.whole for value in known if value is not None and value.whole is not None]
    quant = goal.quant if code in _ON_INTEGERS and len(whole) == 2 else None
    operands = [_real_operand(low, node, i, rank) for i in range(2)] if quant is None else whole
    shapes = [_shape(low, node, i, rank) for i in range(2)]
    shape = np.broadcast_shapes(*shapes)
    made = low.emit(code, operands, goal.name, shape, quant, options, fusedActivationFunction=goal.activation)
    low.put(goal.output, shape, made, quant)


def clamp(low: Lowering, node: onnx.NodeProto) -> None:
    """Relu and Clip by themselves; where rounding to the integers behind keeps the limits, nothing but that."""
    x, goal = low.value(node), low.goal(node)
    lowest, highest = low.limits(node)
    if goal.quant is not None and goal.quant.within(lowest, highest):
        made = low.integers(x, goal.quant, goal.name)
        low.put(goal.output, x.shape, made, goal.quant)
        return
    codes = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}
    made = low.real(x)
    if (lowest, highest) in codes:
        made = low.emit(codes[lowest, highest], [made], goal.name, x.shape)
    else:
        for code, limit in (("MAXIMUM", lowest), ("MINIMUM", highest)):
            if np.isfinite(limit):
                end = low.file.constant(f"{node_key(node)}.{code.lower()}", np.asarray([limit], np.float32))
                made = low.emit(code, [made, end], goal.name, x.shape, None, "MaximumMinimumOptions")
    low.put(goal.output, x.shape, made)


def parametric_relu(low: Lowering, node: onnx.NodeProto) -> None:
    """PRelu with one slope, or one for each channel; in float, because the integer kernel is not among XNNPACK's."""
    x, goal, slope = low.value(node), low.goal(node), low.constant(node.input[1])
    channels = x.shape[-1]
    if slope is None or slope.size not in {1, channels}:
        raise unsupported(node, "its slope is not one constant, or one for each channel")
    shape = (1,) * (len(x.shape) - 2) + (channels,)
    slopes = np.broadcast_to(slope.reshape(-1).astype(np.float32), (channels,)).reshape(shape)
    alpha = low.file.constant(f"{node_key(node)}.slope", slopes)
    low.put(goal.output, x.shape, low.emit("PRELU", [low.real(x), alpha], goal.name, x.shape))


def _shape(low: Lowering, node: onnx.NodeProto, index: int, rank: int) -> tuple[int, ...]:
    name = node.input[index]
    value = low.values.get(name)
    if value is not None:
        if len(value.shape) != rank:
            raise unsupported(node, "its operands have different numbers of dimensions")
        return value.shape
    return _constant_operand(low, node, name, rank).shape


def _real_operand(low: Lowering, node: onnx.NodeProto, index: int, rank: int) -> int:
    name = node.input[index]
    value = low.values.get(name)
    if value is not None:
        return low.real(value)
    return low.file.constant(f"{node_key(node)}.operand", _constant_operand(low, node, name, rank))


def _constant_operand(low: Lowering, node: onnx.NodeProto, name: str, rank: int) -> np.ndarray:
    """A constant with `rank` sizes, in the order of the file."""
    constant = low.constant(name)
    if constant is None or constant.ndim > rank:
        raise unsupported(node, f"its operand {name!r} is neither an activation nor a constant that fits one")
    full = constant.astype(np.float32).reshape((1,) * (rank - constant.ndim) + constant.shape)
    return full.transpose(NHWC) if rank == 4 else full
