"""Writing a TFLite file: tensors, operators and constants of one network. Knows nothing of ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitwright.foundation.optional import require

EXTRA = "edge"
"""The extra that brings the runtime, whose package holds the bindings of the file's schema."""

_SCHEMA_VERSION = 3
_IDENTIFIER = b"TFL3"
_TYPES = {"float32": "FLOAT32", "int8": "INT8", "int32": "INT32"}
_INT8_VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": 3, "FULLY_CONNECTED": 4, "ADD": 2, "SUB": 2, "MUL": 2,
    "CONCATENATION": 2, "MAX_POOL_2D": 2, "AVERAGE_POOL_2D": 2, "MEAN": 2, "LEAKY_RELU": 2, "LOGISTIC": 2, "TANH": 2,
    "PAD": 2, "RESHAPE": 1, "TRANSPOSE": 2, "DEPTH_TO_SPACE": 2, "STRIDED_SLICE": 2, "RESIZE_NEAREST_NEIGHBOR": 3,
    "RELU": 2, "QUANTIZE": 2, "DEQUANTIZE": 2, "GATHER": 2,
}  # fmt: skip
_FLOAT_VERSIONS = {"TRANSPOSE_CONV": 3, "RESIZE_BILINEAR": 3, "RESIZE_NEAREST_NEIGHBOR": 3}
"""Versions of operators as the format's own converter writes them; 1 for those that are not listed."""


@dataclass(frozen=True)
class Scales:
    """How integers become reals: real = scale * (integer - zero), one scale or one for each index of `axis`."""

    scale: np.ndarray
    zero: int = 0
    axis: int = 0

    @staticmethod
    def single(scale: float, zero: int) -> Scales:
        """One scale for the whole tensor."""
        return Scales(np.asarray([scale], np.float32), zero)


class FlatBuffer:
    """A network in the making; tensors are known by their index."""

    def __init__(self) -> None:
        self._schema: Any = require("ai_edge_litert.schema_py_generated", extra=EXTRA)
        self._builder: Any = require("flatbuffers", extra=EXTRA).Builder(1 << 16)
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}
        # The first buffer stands for "no data".
        self._buffers: list[Any] = [self._schema.BufferT()]

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        scales: Scales | None = None,
        data: np.ndarray | None = None,
    ) -> int:
        """Add a tensor of `dtype` (float32, int8, int32); with `data` a constant. Returns its index."""
        made = self._schema.TensorT()
        made.name = name.encode()
        made.shape = [int(size) for size in shape]
        made.type = getattr(self._schema.TensorType, _TYPES[dtype])
        made.hasRank = True
        if scales is not None:
            made.quantization = self._schema.QuantizationParametersT()
            made.quantization.scale = [float(value) for value in scales.scale]
            made.quantization.zeroPoint = [scales.zero] * len(scales.scale)
            made.quantization.quantizedDimension = scales.axis
        if data is not None:
            buffer = self._schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            made.buffer = len(self._buffers)
            self._buffers.append(buffer)
        self._tensors.append(made)
        return len(self._tensors) - 1

    def constant(self, name: str, data: np.ndarray, scales: Scales | None = None) -> int:
        """Add a constant tensor of the type of `data`."""
        return self.tensor(name, data.shape, str(data.dtype), scales, data)

    def operator(
        self,
        code: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: str | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an operator; `options`: name of its table of options in the schema, `values`: the fields that are set.

        An input that is left out is -1.
        """
        made = self._schema.OperatorT()
        made.opcodeIndex = self._code(code, self._is_integer(outputs[0]))
        made.inputs, made.outputs = list(inputs), list(outputs)
        if options is not None:
            made.builtinOptionsType = getattr(self._schema.BuiltinOptions, options)
            made.builtinOptions = getattr(self._schema, f"{options}T")()
            for field, value in (values or {}).items():
                if not hasattr(made.builtinOptions, field):
                    raise ValueError(f"{options} has no field {field}")
                setattr(made.builtinOptions, field, value)
        self._operators.append(made)

    def enum(self, group: str, name: str) -> int:
        """The number of a name of the schema, such as `Padding`, `SAME`."""
        return int(getattr(getattr(self._schema, group), name))

    def finish(self, inputs: Sequence[int], outputs: Sequence[int], description: str) -> bytes:
        """The file. The same calls give the same bytes."""
        graph = self._schema.SubGraphT()
        graph.name = b"main"
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model = self._schema.ModelT()
        model.version = _SCHEMA_VERSION
        model.description = description.encode()
        model.operatorCodes = [self._operator_code(*key) for key in self._codes]
        model.subgraphs = [graph]
        model.buffers = self._buffers
        self._builder.Finish(model.Pack(self._builder), _IDENTIFIER)
        return bytes(self._builder.Output())

    def _is_integer(self, tensor: int) -> bool:
        return bool(self._tensors[tensor].type == self._schema.TensorType.INT8)

    def _code(self, code: str, integer: bool) -> int:
        version = (_INT8_VERSIONS if integer else _FLOAT_VERSIONS).get(code, 1)
        return self._codes.setdefault((code, version), len(self._codes))

    def _operator_code(self, code: str, version: int) -> Any:
        made = self._schema.OperatorCodeT()
        number = self.enum("BuiltinOperator", code)
        made.builtinCode = number
        # Readers from before there were more than 127 operators look here.
        made.deprecatedBuiltinCode = min(number, 127)
        made.version = version
        return made
