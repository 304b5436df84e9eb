"""How much memory the activations of an exported network take at least, before an engine of it has run."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError


def peak_activation_bytes(path: Path, shape: tuple[int, int, int, int]) -> int | None:
    """Most bytes of activations that are alive at once for an input of `shape` [N, C, H, W].

    Nodes in the order of the file, each tensor alive from the node that makes it to the last that reads it, in the
    types of the file: what a runtime fuses takes less, what it rearranges more. None for a file that is no ONNX file
    or whose shapes cannot be inferred.
    """
    try:
        file = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError):
        return None
    for place, length in zip(file.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        place.dim_value = length
    del file.graph.value_info[:]
    for value in file.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(file, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        return None
    sizes = {value.name: _size(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    last_use = {name: index for index, node in enumerate(graph.node) for name in node.input}
    last_use |= {value.name: len(graph.node) for value in graph.output}
    alive = {graph.input[0].name: sizes[graph.input[0].name]}
    peak = 0
    for index, node in enumerate(graph.node):
        alive |= {name: sizes.get(name) for name in node.output if name}
        if None in alive.values():
            return None
        peak = max(peak, sum(size for size in alive.values() if size is not None))
        alive = {name: size for name, size in alive.items() if last_use.get(name, -1) > index}
    return peak


def _size(value: onnx.ValueInfoProto) -> int | None:
    tensor = value.type.tensor_type
    dims: list[int] = [dim.dim_value for dim in tensor.shape.dim]
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return math.prod(dims) * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize)
