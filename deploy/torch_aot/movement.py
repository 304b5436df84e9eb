"""Operators that only move values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from torch.nn import functional

from deploy.onnx_attributes import attributes, number, numbers, text
from deploy.torch_aot.values import Value, Values, unsupported


def same(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Operators that change nothing in inference."""
    return [values.found[node.input[0]]]


def concatenation(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Concat of activations, or of lists of sizes."""
    found = [values.found[name] for name in node.input]
    axis = int(number(node, "axis", 0))
    if any(isinstance(value, np.ndarray) for value in found):
        lists = [value for value in found if isinstance(value, np.ndarray)]
        if len(lists) != len(found):
            raise unsupported(node, "it joins sizes and activations")
        return [np.concatenate([np.asarray(value, dtype=object).reshape(-1) for value in lists])]
    return [torch.cat([values.tensor(node, index) for index in range(len(found))], axis)]


def split(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Split into parts of given sizes, or into as many as there are outputs."""
    x, axis = values.tensor(node), int(number(node, "axis", 0))
    sizes = values.sizes(node, 1)
    if sizes is not None:
        return list(torch.split(x, sizes, axis))
    return list(torch.split(x, -(-x.shape[axis] // len(node.output)), axis))


def cut(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Slice with steps forwards, of an activation or of a list of sizes."""
    source = values.found[node.input[0]]
    starts, ends, axes, steps = (values.sizes(node, index) for index in range(1, 5))
    assert starts is not None
    assert ends is not None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if any(step < 1 for step in steps):
        raise unsupported(node, "only steps forwards")
    if isinstance(source, np.ndarray):
        return [source[starts[0] : ends[0] : steps[0]]]
    x = values.tensor(node)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
    return [x]


def pad(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Pad with a constant, by reflection or with the values at the edge."""
    x, sides, axes = values.tensor(node), values.sizes(node, 1), values.sizes(node, 3)
    assert sides is not None
    places = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    ends = dict(zip(places, zip(sides[: len(places)], sides[len(places) :], strict=True), strict=True))
    order = [size for axis in reversed(range(x.dim())) for size in ends.get(axis, (0, 0))]
    while len(order) > 2 and all(isinstance(size, int) and size == 0 for size in order[-2:]):
        order = order[:-2]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(text(node, "mode", "constant"))
    if mode is None:
        raise unsupported(node, "only constant, reflect and edge")
    if mode != "constant":
        return [functional.pad(x, order, mode)]
    return [functional.pad(x, order, value=values.limit(node, 2) or 0.0)]


def depth_to_space(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """DepthToSpace in both orders of channels; CRD is torch's pixel shuffle."""
    x, block = values.tensor(node), int(number(node, "blocksize", 1))
    if text(node, "mode", "DCR") == "CRD":
        return [functional.pixel_shuffle(x, block)]
    n, c, h, w = x.shape
    deep = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return [deep.reshape(n, c // block**2, h * block, w * block)]


def reshape(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Reshape of an activation, or of a list of sizes."""
    source, wanted = values.found[node.input[0]], values.sizes(node, 1)
    assert wanted is not None
    if isinstance(source, np.ndarray):
        return [source.reshape(tuple(wanted))]
    x = values.tensor(node)
    kept = not number(node, "allowzero", 0)
    shape = [x.shape[i] if kept and isinstance(n, int) and n == 0 else n for i, n in enumerate(wanted)]
    return [x.reshape(shape)]


def flatten(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Flatten to two dimensions; the batch comes first."""
    if int(number(node, "axis", 1)) != 1:
        raise unsupported(node, "only to [N, ...]")
    return [torch.flatten(values.tensor(node), 1)]


def squeeze(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Squeeze of an activation, or of a list of sizes."""
    source, axes = values.found[node.input[0]], _axes(values, node)
    if isinstance(source, np.ndarray):
        return [source.reshape(()) if source.size == 1 else source]
    if axes is None:
        raise unsupported(node, "its axes are not given")
    return [torch.squeeze(values.tensor(node), [int(axis) for axis in axes])]


def unsqueeze(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Unsqueeze of an activation, or of a list of sizes."""
    source, axes = values.found[node.input[0]], _axes(values, node)
    assert axes is not None
    if isinstance(source, np.ndarray):
        return [np.expand_dims(source, tuple(axes))]
    x = values.tensor(node)
    for axis in sorted(int(a) % (x.dim() + len(axes)) for a in axes):
        x = torch.unsqueeze(x, axis)
    return [x]


def transpose(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Transpose."""
    x = values.tensor(node)
    return [x.permute(numbers(node, "perm", tuple(reversed(range(x.dim())))))]


def _axes(values: Values, node: onnx.NodeProto) -> list[int] | None:
    given = values.sizes(node, 1)
    if given is None and "axes" in attributes(node):
        return list(numbers(node, "axes", ()))
    return given
