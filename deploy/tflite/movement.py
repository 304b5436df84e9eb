"""Operators that only move values: integers stay integers, with the scale that they have."""

from __future__ import annotations

import numpy as np
import onnx

from deploy.onnx_attributes import number, numbers, text
from deploy.onnx_layers import node_key
from deploy.tflite.lowering import JOIN, Lowering
from deploy.tflite.values import NHWC, Value, unsupported

_MOST_INPUTS = 4
"""That XNNPACK joins at once; more are joined in turns."""


def concatenation(low: Lowering, node: onnx.NodeProto) -> None:
    """Concat; integers of different scales are brought to that of the result first."""
    inputs = [low.value(node, index) for index in range(len(node.input))]
    goal, axis = low.goal(node), _axis(node, inputs[0])
    quants = {value.quant for value in inputs} if all(value.whole is not None for value in inputs) else {None}
    quant = quants.pop() if len(quants) == 1 else goal.quant
    if quant is None:
        sources = [low.real(value) for value in inputs]
    else:
        # Where one scale is enough for all, it is kept, and whatever comes behind requantises the result.
        sources = [low.integers(v, quant, f"requantize{JOIN}{node_key(node)}") for v in inputs]
    sizes = [value.shape[axis] for value in inputs]
    while True:
        few = sources[:_MOST_INPUTS]
        shape = list(inputs[0].shape)
        shape[axis] = sum(sizes[: len(few)])
        made = low.emit("CONCATENATION", few, goal.name, shape, quant, "ConcatenationOptions", axis=axis)
        if len(few) == len(sources):
            break
        sources, sizes = [made, *sources[len(few) :]], [shape[axis], *sizes[len(few) :]]
    low.put(goal.output, shape, made, quant)


def split(low: Lowering, node: onnx.NodeProto) -> None:
    """Split: one slice for each output."""
    x = low.value(node)
    axis = _axis(node, x)
    given = low.constants.get(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    parts = len(node.output)
    step = -(-x.shape[axis] // parts)
    sizes = [step] * (parts - 1) + [x.shape[axis] - step * (parts - 1)] if given is None else given.tolist()
    start = 0
    for output, size in zip(node.output, sizes, strict=True):
        _cut(low, node, x, output, {axis: range(start, start + size)})
        start += size


def cut(low: Lowering, node: onnx.NodeProto) -> None:
    """Slice with constant ends and steps forward."""
    x = low.value(node)
    given = [low.constants.get(name) for name in node.input[1:]]
    if len(given) < 2 or any(value is None for value in given):
        raise unsupported(node, "its ends are not constant")
    starts, ends, *rest = (value.reshape(-1).tolist() for value in given if value is not None)
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    if any(step < 1 for step in steps):
        raise unsupported(node, "it goes backwards")
    kept = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        place = _place(axis, x)
        kept[place] = range(*slice(start, end, step).indices(x.shape[place]))
    _cut(low, node, x, node.output[0], kept)


def _cut(low: Lowering, node: onnx.NodeProto, x: Value, output: str, kept: dict[int, range]) -> None:
    """Keep these indices along some axes, and all of the others."""
    begin, shape, steps = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    for axis, indices in kept.items():
        begin[axis], shape[axis], steps[axis] = indices.start, len(indices), indices.step
    if min(shape) < 1:
        raise unsupported(node, "it keeps nothing")
    source, quant = low.either(x)
    if max(steps) > 1:
        last = [start + (count - 1) * step + 1 for start, count, step in zip(begin, shape, steps, strict=True)]
        places = {"begin": begin, "end": last, "step": steps}
        inputs = [source, *(low.sizes(f"{output}.{name}", values) for name, values in places.items())]
        made = low.emit("STRIDED_SLICE", inputs, node_key(node), shape, quant, "StridedSliceOptions")
        low.put(output, shape, made, quant)
        return
    ends = [low.sizes(f"{output}.begin", begin), low.sizes(f"{output}.size", shape)]
    low.put(output, shape, low.emit("SLICE", [source, *ends], node_key(node), shape, quant, "SliceOptions"), quant)


def gather(low: Lowering, node: onnx.NodeProto) -> None:
    """Gather with a constant row of indices, such as what repeats channels."""
    x = low.value(node)
    given, axis = low.constants.get(node.input[1]), _axis(node, x)
    if given is None or given.ndim != 1:
        raise unsupported(node, "its indices are not one constant row")
    source, quant = low.either(x)
    shape = list(x.shape)
    indices = low.sizes(f"{node.output[0]}.indices", (given % shape[axis]).tolist())
    shape[axis] = given.size
    made = low.emit("GATHER", [source, indices], node_key(node), shape, quant, "GatherOptions", axis=axis)
    low.put(node.output[0], shape, made, quant)


def pad(low: Lowering, node: onnx.NodeProto) -> None:
    """Pad with zeros, by constant amounts; of integers, with what stands for zero."""
    x = low.value(node)
    if text(node, "mode", "constant") != "constant":
        raise unsupported(node, f"only padding with zeros, not {text(node, 'mode', 'constant')}")
    names = [*node.input[1:], "", "", ""][:3]
    amounts, filler, axes = (low.constants.get(name) if name else None for name in names)
    if amounts is None or (names[1] and filler is None) or (names[2] and axes is None) or amounts.min() < 0:
        raise unsupported(node, "its amounts are not constant, or cut")
    if filler is not None and np.any(filler):
        raise unsupported(node, "only padding with zeros")
    given = amounts.reshape(2, -1).T.tolist()
    chosen = range(len(given)) if axes is None else axes.reshape(-1).tolist()
    sides = np.zeros((len(x.shape), 2), np.int32)
    for axis, both in zip(chosen, given, strict=True):
        sides[_place(axis, x)] = both
    shape = [size + int(before) + int(after) for size, (before, after) in zip(x.shape, sides, strict=True)]
    source, quant = low.either(x)
    ends = low.file.constant(f"{node.output[0]}.pads", sides)
    low.put(node.output[0], shape, low.emit("PAD", [source, ends], node_key(node), shape, quant, "PadOptions"), quant)


def depth_to_space(low: Lowering, node: onnx.NodeProto) -> None:
    """DepthToSpace in both orders of channels; TFLite's own is DCR, the other is spelled out."""
    x = low.value(node)
    source, quant = low.either(x)
    key, r = node_key(node), int(number(node, "blocksize", 1))
    n, h, w, depth = x.shape
    shape = (n, h * r, w * r, depth // (r * r))
    if text(node, "mode", "DCR") == "DCR" or shape[3] == 1:
        made = low.emit("DEPTH_TO_SPACE", [source], key, shape, quant, "DepthToSpaceOptions", blockSize=r)
    else:
        parts = (n, h, w, shape[3], r, r)
        apart = low.reshaped(source, parts, f"apart{JOIN}{key}", quant)
        turned = low.transposed(apart, (0, 1, 4, 2, 5, 3), parts, f"turned{JOIN}{key}", quant)
        made = low.reshaped(turned, shape, key, quant)
    low.put(node.output[0], shape, made, quant)


def reshape(low: Lowering, node: onnx.NodeProto) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze, with a shape that is constant at one size of input."""
    x = low.value(node)
    shape = _new_shape(low, node, x.onnx_shape)
    index, quant = low.in_onnx_order(x, f"unfolded{JOIN}{node_key(node)}")
    made = low.reshaped(index, shape, node_key(node), quant)
    low.put_onnx_order(node.output[0], shape, made, f"folded{JOIN}{node_key(node)}", quant)


def transpose(low: Lowering, node: onnx.NodeProto) -> None:
    """Transpose of an activation."""
    x = low.value(node)
    order = numbers(node, "perm", tuple(reversed(range(len(x.shape)))))
    if len(order) == 4:
        order = tuple(NHWC.index(order[place]) for place in NHWC)
    source, quant = low.either(x)
    shape = tuple(x.shape[i] for i in order)
    low.put(node.output[0], shape, low.transposed(source, order, x.shape, node_key(node), quant), quant)


def same(low: Lowering, node: onnx.NodeProto) -> None:
    """Identity, and whatever is one when a network runs."""
    x = low.value(node)
    low.values[node.output[0]] = x


def _new_shape(low: Lowering, node: onnx.NodeProto, old: tuple[int, ...]) -> tuple[int, ...]:
    if node.op_type == "Flatten":
        axis = int(number(node, "axis", 1)) % (len(old) + 1)
        return int(np.prod(old[:axis])), int(np.prod(old[axis:]))
    given = low.constants.get(node.input[1]) if len(node.input) > 1 else None
    if node.op_type in {"Squeeze", "Unsqueeze"}:
        axes = numbers(node, "axes", ()) if given is None else tuple(given.reshape(-1).tolist())
        if node.op_type == "Unsqueeze":
            return np.expand_dims(np.empty(old, bool), axes).shape
        return np.squeeze(np.empty(old, bool), axes or None).shape
    if given is None:
        raise unsupported(node, "its shape is not constant")
    wanted = [old[i] if size == 0 else size for i, size in enumerate(given.reshape(-1).tolist())]
    return np.empty(old, bool).reshape(wanted).shape


def _axis(node: onnx.NodeProto, x: Value) -> int:
    return _place(int(number(node, "axis", 0)), x)


def _place(axis: int, x: Value) -> int:
    """Where an axis of the exported graph lies in the file."""
    positive = axis % len(x.shape)
    return NHWC.index(positive) if len(x.shape) == 4 else positive
