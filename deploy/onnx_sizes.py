"""An ONNX file with dynamic sizes made into one for a given input: every shape is filled in, sizes become constants."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from bitwright.foundation.errors import GraphError

SHAPE_PRESERVING = frozenset({"Quant", "BipolarQuant", "Trunc"})
"""QONNX's operators, which ONNX's shape inference does not know; their output has the shape of their input."""

Sizes = dict[str, tuple[int, ...]]


def with_sizes(file: onnx.ModelProto, shape: tuple[int, ...]) -> onnx.ModelProto:
    """A copy of a file with one input whose input has `shape`; all its tensors are in `value_info`.

    Sizes that the file computes from its input are computed here and become constants. GraphError where the shape
    does not fit, or that of a tensor stays unknown.
    """
    filled = onnx.ModelProto()
    filled.CopyFrom(file)
    dimensions = filled.graph.input[0].type.tensor_type.shape.dim
    for dimension, size in zip(dimensions, shape, strict=True):
        dimension.dim_value = size
    sizes = _infer(filled)
    # What one node is given as a size may decide the shapes that the next sizes are computed from.
    while _fold_sizes(filled, sizes):
        sizes = _infer(filled)
    for node in filled.graph.node:
        if unknown := [name for name in node.output if name and name not in sizes]:
            raise GraphError(f"the shape of {unknown[0]} is not known for an input of {list(shape)}")
    return filled


def _infer(file: onnx.ModelProto) -> Sizes:
    """Write the shapes that follow from the input's into the file; returns those that are wholly known."""
    plain = onnx.ModelProto()
    plain.CopyFrom(file)
    for node in plain.graph.node:
        if node.domain and node.op_type in SHAPE_PRESERVING:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:]
            del node.attribute[:]
    del plain.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(plain, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise GraphError(f"the file's shapes contradict each other: {str(error).strip().splitlines()[0]}") from error
    del file.graph.value_info[:]
    file.graph.value_info.extend(inferred.graph.value_info)
    for index, value in enumerate(inferred.graph.output):
        file.graph.output[index].CopyFrom(value)
    known = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            known[value.name] = tuple(int(d.dim_value) for d in tensor.shape.dim)
    return known


def _fold_sizes(file: onnx.ModelProto, known: Sizes) -> bool:
    """Replace the Shape nodes of known tensors, and what is computed of nothing else, by constants."""
    constants = {tensor.name: tensor for tensor in file.graph.initializer}
    computed: dict[str, np.ndarray] = {}
    for node in list(file.graph.node):
        if node.op_type == "Shape" and node.input[0] in known:
            found = {attribute.name: int(attribute.i) for attribute in node.attribute}
            sizes = known[node.input[0]]
            values = [np.array(sizes[found.get("start", 0) : found.get("end", len(sizes))], dtype=np.int64)]
        elif any(name in computed for name in node.input) and all(
            not name or name in computed or name in constants for name in node.input
        ):
            given = {
                name: computed[name] if name in computed else numpy_helper.to_array(constants[name])
                for name in node.input
                if name
            }
            values = ReferenceEvaluator(node).run(None, given)
        else:
            continue
        computed.update(zip(node.output, values, strict=True))
        file.graph.node.remove(node)
    file.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in computed.items())
    return bool(computed)
