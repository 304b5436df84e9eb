"""Lowering: a TFLite file in the making, and what is known of each tensor of the exported graph on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from deploy.onnx_layers import node_key
from deploy.tflite.flatbuffer import FlatBuffer, Scales
from deploy.tflite.values import INT8_MIN, NCHW, NHWC, Integers, Quant, Value, reordered, unsupported

JOIN = ";"
"""Between the names of the exported nodes that one operator computes, in the name of the tensor that it makes."""

_ZERO_SHIFT = {np.dtype(np.uint8): INT8_MIN, np.dtype(np.int8): 0}


@dataclass(frozen=True)
class Goal:
    """What the operator for a node makes: the exported tensor, after the nodes that are folded into the operator.

    `quant`: the integers that every reader of the tensor asks for; None where some reader wants reals.
    """

    output: str
    nodes: tuple[str, ...]
    activation: str
    quant: Quant | None

    @property
    def name(self) -> str:
        """The name of the tensor that is made."""
        return JOIN.join(self.nodes)


class Lowering:
    """The state of a compilation. Constants are float or integer arrays in ONNX's own order."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.file = FlatBuffer()
        self.constants: dict[str, np.ndarray] = {}
        self.weights: dict[str, Integers] = {}
        self.values: dict[str, Value] = {}
        self.folded: set[str] = set()
        self._outputs = {value.name for value in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for tensor in node.input:
                self._readers.setdefault(tensor, []).append(node)

    def constant(self, name: str) -> np.ndarray | None:
        """A constant, dequantised where it is one behind DequantizeLinear; None for what is computed or absent."""
        if name in self.weights:
            return self.weights[name].reals
        return self.constants.get(name)

    def value(self, node: onnx.NodeProto, index: int = 0) -> Value:
        """The activation that is an input of a node."""
        found = self.values.get(node.input[index])
        if found is None:
            raise unsupported(node, f"its input {index} is not an activation")
        return found

    def quant(self, node: onnx.NodeProto) -> Quant:
        """Scale and zero point of a QuantizeLinear or DequantizeLinear of an activation."""
        scale = self.constant(node.input[1])
        zero = self.constant(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
        if scale is None or zero is None or scale.size != 1 or zero.dtype not in _ZERO_SHIFT:
            raise unsupported(node, "activations have one constant scale, and a zero point of 8 bits")
        return Quant(float(scale.reshape(())), int(zero.reshape(())) + _ZERO_SHIFT[zero.dtype])

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor; an output of the network is not among them."""
        return self._readers.get(tensor, [])

    def goal(self, node: onnx.NodeProto, *, fuse: bool = False) -> Goal:
        """What the operator of `node` makes; `fuse`: it can take a ReLU or a clamp with it."""
        key, output = node_key(node), node.output[0]
        readers = self.readers(output)
        if fuse and len(readers) == 1 and output not in self._outputs and readers[0].op_type in {"Relu", "Clip"}:
            quant = self._wanted(readers[0].output[0])
            activation = self._activation(readers[0], quant)
            if activation is not None:
                self.folded.add(node_key(readers[0]))
                return Goal(readers[0].output[0], (key, node_key(readers[0])), activation, quant)
        return Goal(output, (key,), "NONE", self._wanted(output))

    def _wanted(self, tensor: str) -> Quant | None:
        readers = self.readers(tensor)
        if not readers or tensor in self._outputs or any(r.op_type != "QuantizeLinear" for r in readers):
            return None
        found = {self.quant(reader) for reader in readers}
        return found.pop() if len(found) == 1 else None

    def limits(self, node: onnx.NodeProto) -> tuple[float, float]:
        """Between what a Relu or Clip keeps its input."""
        if node.op_type == "Relu":
            return 0.0, np.inf
        ends = [self.constant(name) if name else None for name in (*node.input[1:3], "", "")[:2]]
        if any(name and end is None for name, end in zip(node.input[1:3], ends, strict=False)):
            raise unsupported(node, "its limits are not constant")
        low, high = ends
        return (-np.inf if low is None else float(low)), (np.inf if high is None else float(high))

    def _activation(self, node: onnx.NodeProto, quant: Quant | None) -> str | None:
        """The clamp that does what `node` does behind an operator; None where there is none."""
        low, high = self.limits(node)
        if quant is not None and quant.within(low, high):
            return "NONE"
        return {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}.get((low, high))

    def put(self, tensor: str, shape: Sequence[int], index: int, quant: Quant | None = None) -> Value:
        """Tell that the tensor `index` of the file holds a tensor of the exported graph, as reals or as integers."""
        value = Value(tensor, tuple(shape))
        if quant is None:
            value.real = index
        else:
            value.whole, value.quant = index, quant
        self.values[tensor] = value
        return value

    def emit(
        self,
        code: str,
        inputs: Sequence[int],
        name: str,
        shape: Sequence[int],
        quant: Quant | None = None,
        options: str | None = None,
        **values: Any,
    ) -> int:
        """Add an operator and the one tensor that it makes: int8 with `quant`, else float32."""
        scales = None if quant is None else Scales.single(quant.scale, quant.zero)
        made = self.file.tensor(name, shape, "float32" if quant is None else "int8", scales)
        self.file.operator(code, inputs, [made], options, self._numbered(values))
        return made

    def _numbered(self, values: Mapping[str, Any]) -> dict[str, Any]:
        groups = {"padding": "Padding", "fusedActivationFunction": "ActivationFunctionType"}
        return {k: self.file.enum(groups[k], v) if isinstance(v, str) else v for k, v in values.items()}

    def real(self, value: Value) -> int:
        """The float tensor of an activation, dequantised once where it is only there as integers."""
        if value.real is None:
            assert value.whole is not None
            value.real = self.emit(
                "DEQUANTIZE", [value.whole], f"dequantize{JOIN}{value.name}", value.shape, None, "DequantizeOptions"
            )
        return value.real

    def integers(self, value: Value, quant: Quant, name: str) -> int:
        """The int8 tensor of an activation at `quant`: its own if that is the same, else quantised (anew).

        From reals, because from integers to integers XNNPACK multiplies by a factor of 8 bits: 4 to 20 % of the values
        would be off by a level.
        """
        if value.whole is not None and value.quant == quant:
            return value.whole
        return self.emit("QUANTIZE", [self.real(value)], name, value.shape, quant, "QuantizeOptions")

    def either(self, value: Value) -> tuple[int, Quant | None]:
        """What an operator that only moves values reads: integers where they are there, else reals."""
        return (self.real(value), None) if value.whole is None else (value.whole, value.quant)

    def sizes(self, name: str, values: Sequence[int]) -> int:
        """A constant of int32, such as a shape."""
        return self.file.constant(name, np.asarray(values, np.int32))

    def transposed(self, index: int, order: Sequence[int], shape: Sequence[int], name: str, quant: Quant | None) -> int:
        """A tensor of the file with its sizes in another order; a mere reshape where no value moves."""
        made = tuple(shape[i] for i in order)
        if [i for i in order if shape[i] > 1] == sorted(i for i in order if shape[i] > 1):
            return self.reshaped(index, made, name, quant)
        turn = self.sizes(f"{name}.order", order)
        return self.emit("TRANSPOSE", [index, turn], name, made, quant, "TransposeOptions")

    def reshaped(self, index: int, shape: Sequence[int], name: str, quant: Quant | None) -> int:
        """A tensor of the file with the same values in another shape."""
        wanted = self.sizes(f"{name}.shape", shape)
        return self.emit("RESHAPE", [index, wanted], name, shape, quant, "ReshapeOptions", newShape=list(shape))

    def in_onnx_order(self, value: Value, name: str) -> tuple[int, Quant | None]:
        """The activation with its sizes in ONNX's order."""
        index, quant = self.either(value)
        if len(value.shape) == 4:
            index = self.transposed(index, NCHW, value.shape, name, quant)
        return index, quant

    def put_onnx_order(self, tensor: str, shape: tuple[int, ...], index: int, name: str, quant: Quant | None) -> None:
        """As `put`, for a tensor of the file whose sizes are in ONNX's order."""
        if len(shape) == 4:
            index = self.transposed(index, NHWC, shape, name, quant)
            shape = reordered(shape, NHWC)
        self.put(tensor, shape, index, quant)
