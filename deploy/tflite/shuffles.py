"""DepthToSpace in the order of channels that TFLite has: the layer in front makes its channels in that order."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from deploy.onnx_attributes import number, text

_TRANSPARENT = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Relu", "LeakyRelu", "Clip", "Tanh", "Sigmoid", "Identity"}
)
"""Operators that treat all channels alike, so that channels may change places in front of them instead of behind."""


def reorder_shuffles(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Make DepthToSpace DCR where a convolution alone feeds it, by changing the order of that one's outputs.

    Changes `graph` in place; the network computes the same. Returns the names of the convolutions that were changed.
    """
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, int] = {}
    for tensor in [name for node in graph.node for name in node.input] + [value.name for value in graph.output]:
        readers[tensor] = readers.get(tensor, 0) + 1
    changed = []
    for shuffle in [n for n in graph.node if n.op_type == "DepthToSpace" and text(n, "mode", "DCR") == "CRD"]:
        source = _only_source(shuffle.input[0], producers, readers)
        if source is None or source.op_type != "Conv":
            continue
        tensors = _per_channel(source, producers, constants, readers)
        if tensors is None:
            continue
        r = int(number(shuffle, "blocksize", 1))
        for tensor in tensors:
            array = numpy_helper.to_array(tensor)
            blocks = array.reshape(-1, r * r, *array.shape[1:])
            moved = np.ascontiguousarray(blocks.swapaxes(0, 1)).reshape(array.shape)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
        next(a for a in shuffle.attribute if a.name == "mode").s = b"DCR"
        changed.append(str(source.name or source.output[0]))
    return tuple(changed)


def _only_source(tensor: str, producers: dict[str, onnx.NodeProto], readers: dict[str, int]) -> onnx.NodeProto | None:
    """The node behind a tensor, through operators that treat all channels alike and that nothing else reads."""
    while readers.get(tensor) == 1 and tensor in producers:
        node = producers[tensor]
        if node.op_type not in _TRANSPARENT:
            return node
        tensor = node.input[0]
    return None


def _per_channel(
    layer: onnx.NodeProto,
    producers: dict[str, onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
    readers: dict[str, int],
) -> list[onnx.TensorProto] | None:
    """The constants of a layer whose first axis are its outputs; None where others use them or there are groups."""
    if number(layer, "group", 1) != 1:
        return None
    channels, found = None, []
    for operand in layer.input[1:]:
        behind = producers.get(operand)
        names = [operand] if behind is None else list(behind.input)
        if behind is not None and (behind.op_type != "DequantizeLinear" or readers[operand] > 1):
            return None
        if any(name not in constants or readers[name] > 1 for name in names):
            return None
        if channels is None:
            channels = constants[names[0]].dims[0]
        found += [constants[name] for name in names if list(constants[name].dims)[:1] == [channels]]
    return found
