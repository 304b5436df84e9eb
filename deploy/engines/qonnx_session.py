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
from deploy.runtimes import Runtime

KEPT = 8
"""Shapes for which the network with all its shapes filled in is kept."""

QUANTISERS = ("Quant", "BipolarQuant", "QuantizeLinear", "DequantizeLinear")
_REFUSALS = (Exception,)
# qonnx reports what is wrong with a file as bare Exceptions, assertions and errors of ONNX Runtime.


class QonnxSession:
    """One ONNX or QONNX file; UsageError where qonnx cannot read it."""

    def __init__(self, path: Path) -> None:
        import_runtime(Runtime.QONNX)
        self._path = path
        with _one_line(f"qonnx cannot load {path}"):
            wrapper = require("qonnx.core.modelwrapper").ModelWrapper(str(path))
            self._input, self._output = wrapper.graph.input[0].name, wrapper.graph.output[0].name
            self._sizes = _sizes(wrapper.graph.input[0])
        self._wrapper = wrapper
        self._filled: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return self._sizes[1] or 1

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

        Sizes that the file computes from its input become constants. UsageError where a shape stays unknown.
        """
        if shape in self._filled:
            self._filled.move_to_end(shape)
            return self._filled[shape]
        with _one_line(f"qonnx cannot infer shapes of {self._path} for an input of {list(shape)}"):
            model = _fill(self._wrapper, self._input, shape)
            if unknown := _unknown(model):
                raise ValueError(f"the shape of {unknown} stays unknown")
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
            model = filled.transform(require("qonnx.transformation.infer_datatypes").InferDataTypes())
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
                if not np.any(zero) and (inferred.name == "FLOAT32" or inferred.bitwidth() != int(bits)):
                    raise ValueError(f"{node.name or node.output[0]} has {int(bits)} bits and is inferred {inferred}")
        return model


def _fill(wrapper: Any, given: str, shape: tuple[int, ...]) -> Any:
    shapes = require("qonnx.transformation.infer_shapes").InferShapes()
    fold = require("qonnx.transformation.fold_constants").FoldConstants(exclude_op_types=list(QUANTISERS))
    model = require("qonnx.core.modelwrapper").ModelWrapper(wrapper.model, make_deepcopy=True)
    model.set_tensor_shape(given, list(shape))
    model = model.transform(shapes)
    # The size that one node is given may decide what the next ones compute theirs from.
    while _write_sizes(model):
        model = model.transform(fold).transform(shapes)
    return model


def _write_sizes(model: Any) -> bool:
    """Replace the Shape nodes whose input has a known shape by constants; False where there is none."""
    written = False
    for node in list(model.get_nodes_by_op_type("Shape")):
        sizes = model.get_tensor_shape(node.input[0])
        if sizes is None or 0 in sizes:
            continue
        found = {attribute.name: int(attribute.i) for attribute in node.attribute}
        part = sizes[found.get("start", 0) : found.get("end", len(sizes))]
        model.graph.node.remove(node)
        model.set_initializer(node.output[0], np.array(part, dtype=np.int64))
        written = True
    return written


def _unknown(model: Any) -> str | None:
    """The first tensor whose shape is not known."""
    for node in model.graph.node:
        for output in node.output:
            sizes = model.get_tensor_shape(output)
            if output and (sizes is None or 0 in sizes):
                return str(output)
    return None


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
