"""What of an ONNX file a shorter float type cannot hold: constants, and ranges of quantisers.

A type holds a constant where rounding changes it by half a unit in the last place at most, 2^-11 of the value in fp16
and 2^-9 in bf16: beyond the largest finite value it is infinite, and below the smallest normal one digits are lost. The
weights and the bias of a layer are measured against the largest of them, because sums of them are what counts; any
other constant (a slope, a divisor) is measured value by value.

Of activations a file tells no range, except where they are quantised. Other overflows show only when an engine runs,
and `verify` refuses outputs that are infinite or not numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from pydantic import BaseModel, ConfigDict, Field

from deploy.onnx_layers import LAYER_OPS, node_key
from deploy.runtimes import FloatPrecision

_TORCH = {FloatPrecision.FP16: torch.float16, FloatPrecision.BF16: torch.bfloat16}
_QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_NAMED = 4


class Unfit(BaseModel):
    """A layer or another node, by name, and why the type cannot serve it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    reason: str = Field(description="what does not fit, and how far")


def unfit(file: onnx.ModelProto, precision: FloatPrecision) -> tuple[Unfit, ...]:
    """What `precision` cannot hold, ranges first, otherwise in the order of the file; nothing in fp32."""
    return () if precision not in _TORCH else (*_ranges(file, precision), *_constants(file, precision))


def in_words(found: tuple[Unfit, ...]) -> str:
    """The first of what was found, and how many more there are."""
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "; ".join(f"{one.node}: {one.reason}" for one in found[:_NAMED]) + more


def _constants(file: onnx.ModelProto, precision: FloatPrecision) -> Iterator[Unfit]:
    values = {t.name: t for t in file.graph.initializer if t.data_type == TensorProto.FLOAT}
    for node in file.graph.node:
        for name in node.input if node.op_type not in _QUANTISERS else ():
            problem = _misfit(values[name], precision, node.op_type in LAYER_OPS) if name in values else None
            if problem is not None:
                yield Unfit(node=node_key(node), reason=f"{name}: {problem}")


def _misfit(tensor: onnx.TensorProto, precision: FloatPrecision, together: bool) -> str | None:
    """What a type cannot hold of a constant, whose values are measured `together` or each by itself; None if all."""
    value = np.abs(numpy_helper.to_array(tensor).astype(np.float32)).ravel()
    value = value[np.isfinite(value) & (value > 0)]
    if value.size == 0:
        return None
    rounded = torch.from_numpy(value).to(_TORCH[precision]).double().numpy()
    if not np.isfinite(rounded).all():
        return f"{value.max():.4g} is beyond {torch.finfo(_TORCH[precision]).max:.5g}"
    exact = value.astype(np.float64)
    errors = np.abs(rounded - exact) / (exact.max() if together else exact)
    if errors.max() <= torch.finfo(_TORCH[precision]).eps / 2:
        return None
    worst = value.max() if together else value[int(errors.argmax())]
    return f"{worst:.4g} is below its normal numbers and would change by {errors.max():.2g} of its value"


def _ranges(file: onnx.ModelProto, precision: FloatPrecision) -> Iterator[Unfit]:
    """The readers of what is dequantised beyond the type. What was quantised before has the same range."""
    constants = {tensor.name: tensor for tensor in file.graph.initializer}
    limit = torch.finfo(_TORCH[precision]).max
    for node in file.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[1] not in constants:
            continue
        reach = _reach(node, constants)
        for reader in file.graph.node if reach > limit else ():
            if node.output[0] in reader.input:
                yield Unfit(node=node_key(reader), reason=f"integers reach {reach:.4g}, beyond {limit:.5g}")


def _reach(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> float:
    """The largest magnitude that a node dequantises; that of the type's range where its integers are computed."""
    scale = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
    given = constants.get(node.input[2]) if len(node.input) > 2 else None
    zero: NDArray[np.float64] = np.zeros(()) if given is None else numpy_helper.to_array(given).astype(np.float64)
    stored = constants.get(node.input[0])
    if stored is not None:
        integers = numpy_helper.to_array(stored).astype(np.float64)
        return float((np.abs(integers).max(initial=0) + np.abs(zero)).max() * scale.max())
    if given is None or given.data_type not in {TensorProto.INT8, TensorProto.UINT8}:
        return 0.0
    low, high = (-128, 127) if given.data_type == TensorProto.INT8 else (0, 255)
    return float((np.maximum(high - zero, zero - low) * scale).max())
