"""A QONNX file in qonnx's reference executor, which runs node by node and needs every shape to be known."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bitwright.foundation.errors import UsageError
from bitwright.foundation.optional import require
from deploy.engines.runtime_packages import import_runtime
from deploy.onnx_sizes import with_sizes
from deploy.runtimes import Runtime

KEPT = 8
"""Shapes for which the network with all its shapes filled in is kept."""

_REFUSALS = (Exception,)
"""What qonnx raises of a file: bare exceptions, assertions and errors of ONNX Runtime."""


class QonnxSession:
    """One ONNX or QONNX file; UsageError where qonnx cannot read it."""

    def __init__(self, path: Path) -> None:
        import_runtime(Runtime.QONNX)
        self._path = path
        with _one_line(f"qonnx cannot load {path}"):
            self._file = onnx.load(path)
            graph = self._file.graph
            self._input, self._output = graph.input[0].name, graph.output[0].name
            self._sizes = _sizes(graph.input[0])
        self._filled: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def shape_like(self, usual: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that the network takes: its own sizes where they are fixed, else those of `usual`."""
        if len(self._sizes) != len(usual):
            raise UsageError(f"{self._path} takes an input of {len(self._sizes)} dimensions, not [N, C, H, W]")
        return tuple(wanted or size for wanted, size in zip(self._sizes, usual, strict=True))

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32; UsageError when the network does not take that shape."""
        fits = len(x.shape) == len(self._sizes) and all(
            wanted in {None, given} for wanted, given in zip(self._sizes, x.shape, strict=True)
        )
        if x.dtype != np.float32 or not fits:
            shown = ", ".join("any" if size is None else str(size) for size in self._sizes)
            raise UsageError(f"qonnx cannot run {x.dtype} {list(x.shape)}: the network takes float32 [{shown}]")
        model = self.filled(x.shape)
        with _one_line(f"qonnx cannot run {x.dtype} {list(x.shape)}"):
            found: np.ndarray = require("qonnx.core.onnx_exec").execute_onnx(model, {self._input: x})[self._output]
        return found

    def filled(self, shape: tuple[int, ...]) -> Any:
        """qonnx's ModelWrapper of the file with the shape of every tensor filled in, for an input of `shape`.

        UsageError where one stays unknown.
        """
        if shape in self._filled:
            self._filled.move_to_end(shape)
            return self._filled[shape]
        with _one_line(f"qonnx cannot infer shapes of {self._path} for an input of {list(shape)}"):
            model = require("qonnx.core.modelwrapper").ModelWrapper(with_sizes(self._file, shape))
        self._filled[shape] = model
        if len(self._filled) > KEPT:
            self._filled.popitem(last=False)
        return model

    def check(self, shape: tuple[int, ...]) -> Any:
        """The filled model with qonnx's data types; UsageError where one of qonnx's own checks does not hold.

        All shapes are known, nodes are sorted, and the data type that qonnx infers behind each Quant node without a
        zero point is an integer of the node's bit width (scaled, where the node has a scale).
        """
        filled = self.filled(shape)
        with _one_line(f"{self._path} does not pass qonnx's checks"):
            model = filled.transform(require("qonnx.transformation.infer_shapes").InferShapes())
            infer = require("qonnx.transformation.infer_datatypes").InferDataTypes
            model = model.transform(infer(allow_scaledint_dtypes=True))
            if not model.check_all_tensor_shapes_specified():
                raise ValueError("some shapes are unknown")
            topology = require("qonnx.analysis.topology")
            if not model.analysis(topology.nodes_topologically_sorted)["nodes_topologically_sorted"]:
                raise ValueError("its nodes are not in order")
            for node in model.get_nodes_by_op_type("Quant"):
                zero, bits = (model.get_initializer(node.input[index]) for index in (2, 3))
                if zero is None or bits is None:
                    raise ValueError(f"zero point and bit width of {node.name or node.output[0]} are not constant")
                inferred = model.get_tensor_datatype(node.output[0])
                if not np.any(zero) and (inferred.name == "FLOAT32" or inferred.bitwidth() != float(bits)):
                    raise ValueError(f"{node.name or node.output[0]} has {bits:g} bits and is inferred {inferred}")
        return model


def _sizes(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The sizes of an input; None where any will do."""
    return tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn whatever qonnx raises into a UsageError of one line, and keep its warnings from the user."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UsageError:
        raise
    except _REFUSALS as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(f"{what}: {first}") from error
