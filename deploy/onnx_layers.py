"""Which ONNX node is which layer: found through the weight's initialiser, whatever exporters rename."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

LAYER_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_BETWEEN = frozenset({"DequantizeLinear", "Quant", "Transpose", "Clip", "Identity", "Reshape"})


def node_key(node: onnx.NodeProto) -> str:
    """A node's name; unnamed nodes go by their first output, as runtimes call them."""
    return str(node.name or node.output[0])


def layer_of_nodes(file: onnx.ModelProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    """Each layer node in graph order with its layer's name, `name#2` from the second call of a shared weight on."""
    for name, node, _ in layers_with_weights(file):
        yield name, node


def layers_with_weights(file: onnx.ModelProto) -> Iterator[tuple[str, onnx.NodeProto, str]]:
    """Each layer node as in `layer_of_nodes`, with the name of the initialiser that holds its weight."""
    initializers = {initializer.name for initializer in file.graph.initializer}
    producers = {output: node for node in file.graph.node for output in node.output}
    calls: dict[str, int] = {}
    for node in file.graph.node:
        if node.op_type not in LAYER_OPS:
            continue
        source = _constant_source(node.input[1], producers, initializers)
        if source is None:
            continue
        owner = source.removesuffix(".integers").removesuffix(".weight")
        calls[owner] = calls.get(owner, 0) + 1
        yield (owner if calls[owner] == 1 else f"{owner}#{calls[owner]}"), node, source


def _constant_source(name: str, producers: dict[str, onnx.NodeProto], initializers: set[str]) -> str | None:
    """The initialiser behind a weight input, through what quantises and transposes it; None if it is computed."""
    while name not in initializers:
        node = producers.get(name)
        if node is None or node.op_type not in _BETWEEN:
            return None
        name = node.input[0]
    return name


def name_folded(file: onnx.ModelProto, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Give matrices that the exporter has transposed beforehand the name of the weight that they were made of.

    `weights`: the network's matrices, by name. Those that are still in the file keep their names.
    """
    present = {tensor.name for tensor in file.graph.initializer}
    made = {
        (value.shape[::-1], np.ascontiguousarray(value.T).tobytes()): name
        for name, value in weights.items() if name not in present
    }  # fmt: skip
    renamed = {}
    for tensor in file.graph.initializer if made else ():
        if tensor.name not in weights and len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor)
            name = made.pop((value.shape, value.tobytes()), None)
            if name is not None:
                renamed[tensor.name] = name
                tensor.name = name
    for node in file.graph.node if renamed else ():
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def name_layers(file: onnx.ModelProto) -> None:
    """Give each layer node its layer's name."""
    for name, node in list(layer_of_nodes(file)):
        node.name = name
