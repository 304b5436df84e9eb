"""Compiling an exported ONNX file to a TFLite file for one input shape: the same scales and the same integers.

Float operators stay float. A layer runs on integers where its input, its weight and what every reader takes of its
output are quantised; there is no integer kernel that gives reals. Convolutions read N, H, W, C; input and output of the
file are N, C, H, W as in the exported graph. Sizes are constants, so whatever computes them is folded away.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from bitwright.foundation.errors import UsageError
from deploy.onnx_attributes import attributes, number, numbers
from deploy.onnx_layers import node_key
from deploy.tflite import elementwise, layers, movement, windows
from deploy.tflite.lowering import JOIN, Lowering
from deploy.tflite.shuffles import reorder_shuffles
from deploy.tflite.values import Integers, Value, unsupported

INPUT, OUTPUT = "input", "output"
Lower = Callable[[Lowering, onnx.NodeProto], None]

OPERATORS: dict[str, Lower] = {
    **dict.fromkeys(elementwise.UNARY, elementwise.unary),
    **dict.fromkeys(elementwise.BINARY, elementwise.binary),
    "Relu": elementwise.clamp,
    "Clip": elementwise.clamp,
    "PRelu": elementwise.parametric_relu,
    "Conv": layers.convolution,
    "ConvTranspose": layers.transposed_convolution,
    "Gemm": layers.matrix_product,
    "MatMul": layers.matrix_product,
    "Concat": movement.concatenation,
    "Split": movement.split,
    "Slice": movement.cut,
    "Gather": movement.gather,
    "Pad": movement.pad,
    "DepthToSpace": movement.depth_to_space,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), movement.reshape),
    "Transpose": movement.transpose,
    **dict.fromkeys(("Identity", "Dropout"), movement.same),
    "MaxPool": windows.max_pool,
    "AveragePool": windows.average_pool,
    **dict.fromkeys(("ReduceMean", "GlobalAveragePool"), windows.mean),
    "Resize": windows.resize,
}
"""How each operator of an exported graph is written; whatever computes sizes or constants needs no entry."""


def compile_file(path: Path, shape: tuple[int, ...]) -> bytes:
    """The TFLite file of the network in an ONNX file for inputs of `shape`, [N, C, H, W].

    UsageError names the node that has no counterpart, or tells that the network does not take the shape.
    """
    graph = onnx.load(path).graph
    given, wanted = _only(graph, path)
    _check_shape(given, shape, path)
    reorder_shuffles(graph)
    low = Lowering(graph)
    for tensor in graph.initializer:
        low.constants[tensor.name] = numpy_helper.to_array(tensor)
    placeholder = low.file.tensor(INPUT, shape, "float32")
    low.put_onnx_order(given.name, tuple(shape), placeholder, f"turned{JOIN}{INPUT}", None)
    for node in graph.node:
        if node_key(node) not in low.folded:
            _lower(low, node)
    result = low.values.get(wanted.name)
    if result is None:
        raise UsageError(f"{path}: its output {wanted.name!r} is not computed from its input")
    return low.file.finish([placeholder], [_output(low, result)], f"compiled from {path.name}")


def _only(graph: onnx.GraphProto, path: Path) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
    if len(graph.input) != 1 or len(graph.output) != 1:
        raise UsageError(
            f"{path} has {len(graph.input)} inputs and {len(graph.output)} outputs; an engine has one each"
        )
    return graph.input[0], graph.output[0]


def _check_shape(given: onnx.ValueInfoProto, shape: tuple[int, ...], path: Path) -> None:
    stated = [int(dim.dim_value) for dim in given.type.tensor_type.shape.dim]
    if len(stated) != len(shape) or any(size not in {0, real} for size, real in zip(stated, shape, strict=True)):
        named = [size or "any" for size in stated]
        raise UsageError(f"the network of {path.name} takes inputs of {named}, not {list(shape)}")


def _output(low: Lowering, result: Value) -> int:
    """The output in ONNX's order; integers are turned before they become reals, because they are smaller."""
    index, quant = low.in_onnx_order(result, f"turned{JOIN}{OUTPUT}")
    if quant is None:
        return index
    return low.emit("DEQUANTIZE", [index], f"dequantize{JOIN}{OUTPUT}", result.onnx_shape, None, "DequantizeOptions")


def _lower(low: Lowering, node: onnx.NodeProto) -> None:
    if node.op_type == "QuantizeLinear":
        _quantize(low, node)
    elif node.op_type == "DequantizeLinear":
        _dequantize(low, node)
    elif node.op_type == "Shape" and node.input[0] in low.values:
        low.constants[node.output[0]] = _shape(low, node)
    elif node.op_type == "Transpose" and node.input[0] in low.weights:
        stored = low.weights[node.input[0]]
        order = numbers(node, "perm", tuple(reversed(range(stored.values.ndim))))
        low.weights[node.output[0]] = stored.moved(order)
    elif not any(name in low.values for name in node.input):
        _fold(low, node)
    elif node.op_type in OPERATORS:
        OPERATORS[node.op_type](low, node)
    else:
        raise unsupported(node, "this operator has no counterpart")


def _quantize(low: Lowering, node: onnx.NodeProto) -> None:
    if node.input[0] not in low.values:
        _fold(low, node)
        return
    x, quant = low.value(node), low.quant(node)
    low.put(node.output[0], x.shape, low.integers(x, quant, node_key(node)), quant)


def _dequantize(low: Lowering, node: onnx.NodeProto) -> None:
    known = low.values.get(node.input[0])
    if known is not None:
        if known.quant != low.quant(node):
            raise unsupported(node, "its scale is not the one that its input was quantised with")
        assert known.whole is not None
        low.put(node.output[0], known.shape, known.whole, known.quant)
        return
    constants = [low.constants.get(name) for name in node.input]
    values, scale = constants[:2]
    if values is None or scale is None:
        raise unsupported(node, "its input is neither an activation nor a constant")
    given = constants[2] if len(constants) > 2 else None
    zero = np.zeros(scale.size, values.dtype) if given is None else given.reshape(-1)
    axis = int(number(node, "axis", 1)) % max(values.ndim, 1)
    low.weights[node.output[0]] = Integers(values, scale.reshape(-1).astype(np.float32), zero, axis)


def _shape(low: Lowering, node: onnx.NodeProto) -> np.ndarray:
    found = attributes(node)
    start, end = (found.get(name) for name in ("start", "end"))
    whole = np.asarray(low.value(node).onnx_shape, np.int64)
    return whole[slice(None if start is None else int(str(start)), None if end is None else int(str(end)))]


def _fold(low: Lowering, node: onnx.NodeProto) -> None:
    """Compute a node of constants."""
    inputs = [low.constant(name) if name else None for name in node.input]
    missing = next((name for name, array in zip(node.input, inputs, strict=True) if name and array is None), None)
    if missing is not None:
        raise unsupported(node, f"its input {missing!r} is not known")
    kinds = [onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for array in inputs if array is not None]
    names = [name for name in node.input if name]
    given = [onnx.helper.make_tensor_value_info(n, kind, None) for n, kind in zip(names, kinds, strict=True)]
    made = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = onnx.helper.make_graph([node], "constants", given, made)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if array is not None}
    try:
        results = ReferenceEvaluator(model).run(None, feeds)
    except (NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        raise unsupported(node, f"its constants cannot be computed ({error})") from error
    low.constants.update(zip(node.output, map(np.asarray, results), strict=True))
