"""verify_formats: whether what an ONNX file quantises has the formats that its plan names, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from bitwright.foundation.errors import VerificationError
from compress.plan import Plan
from compress.quantizers import Granularity, QuantFormat
from deploy.onnx_attributes import number
from deploy.onnx_layers import layers_with_weights

E4M3 = "float8_e4m3fn"
"""numpy's name of FLOAT8E4M3FN."""
INT4 = "int4"
"""numpy's name of ONNX's type; only weights in blocks are stored in it."""

_MOVES = frozenset({"Transpose", "Reshape", "DepthToSpace", "Slice", "Split", "Identity", "Flatten", "Squeeze"})
"""Operators between a DequantizeLinear and a layer that leave every value as it is."""


def verify_formats(path: Path, plan: Plan) -> int:
    """Check weight and input of every quantised layer of `plan` in the file; returns how many layers were checked.

    What no runtime needs to be installed for: signs, widths, zero points and numbers of scales are those of the plan,
    so that a file is what the rules of the device were checked against. VerificationError names the first layer that
    is missing or differs, and in what.
    """
    file = _File(onnx.load(path))
    wanted = {name: layer for name, layer in plan.layers.items() if layer.weight is not None}
    found = {name: node for name, node, _ in layers_with_weights(file.model)}
    for name, layer in wanted.items():
        if name not in found:
            raise VerificationError(f"{path.name}: the file has no layer {name}")
        assert layer.weight is not None
        tensor, form = "weight", layer.weight
        complaint = file.weight_complaint(found[name], form)
        if complaint is None and layer.activation is not None:
            tensor, form = "input", layer.activation
            complaint = file.input_complaint(found[name], form)
        if complaint is not None:
            raise VerificationError(f"{path.name}: {tensor} of layer {name}: {complaint}, planned {_words(form)}")
    return len(wanted)


class _File:
    """Producers and constants of a file by the names of their tensors."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.producers: Mapping[str, onnx.NodeProto] = {o: node for node in model.graph.node for o in node.output}
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def weight_complaint(self, node: onnx.NodeProto, form: QuantFormat) -> str | None:
        """What is wrong with the weight of a layer's node; None where it is as planned."""
        step = self._dequantize(node.input[1])
        integers = None if step is None else self._constant(step.input[0])
        if step is None or integers is None:
            return "it is in float"
        scale, zero = self._parameters(step)
        if not _stored_as(integers.dtype, form):
            return f"it is {integers.dtype}"
        stored = integers.astype(np.float32)
        if stored.size and not form.qmin <= stored.min() <= stored.max() <= form.qmax:
            return f"its {'values' if form.is_fp8 else 'integers'} reach from {stored.min():g} to {stored.max():g}"
        if scale is not None and scale.size > 1 and form.granularity is Granularity.TENSOR:
            return f"it has {scale.size} scales"
        block = int(number(step, "block_size", 0))
        if block != (form.block or 0):
            return f"it is in blocks of {block}" if block else "it is not in blocks"
        return _off_centre(zero, form)

    def input_complaint(self, node: onnx.NodeProto, form: QuantFormat) -> str | None:
        """What is wrong with the input of a layer's node; None where it is as planned."""
        step = self._dequantize(node.input[0])
        if step is None:
            return "it is in float"
        scale, zero = self._parameters(step)
        if scale is None or zero is None or not _stored_as(zero.dtype, form):
            return f"it is {'uint8' if zero is None else zero.dtype}"
        if scale.size > 1:
            return f"it has {scale.size} scales"
        # QuantizeLinear saturates to E4M3 itself, which has one range.
        low, high = (form.qmin, form.qmax) if form.is_fp8 else self._limits(step, scale, zero)
        # An exporter may join the clamp with a ReLU before it, so that the range is narrower than the format.
        if not form.qmin <= low <= high <= form.qmax:
            return f"its integers reach from {low} to {high}"
        return _off_centre(zero, form)

    def _dequantize(self, name: str) -> onnx.NodeProto | None:
        node = self.producers.get(name)
        while node is not None and node.op_type in _MOVES:
            node = self.producers.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def _limits(self, step: onnx.NodeProto, scale: NDArray[Any], zero: NDArray[Any]) -> tuple[int, int]:
        """The integers that a Clip before the QuantizeLinear leaves; those of the container where there is none."""
        limits = np.iinfo(zero.dtype)
        ends: list[NDArray[Any] | None] = [None, None]
        quantize = self.producers.get(step.input[0])
        clip = None if quantize is None else self.producers.get(quantize.input[0])
        if clip is not None and clip.op_type == "Clip":
            ends = [self._constant(name) for name in (*clip.input[1:3], "", "")[:2]]
        whole = [None if end is None else int(np.rint(end / scale)) + int(zero) for end in ends]
        return (
            limits.min if whole[0] is None else max(limits.min, whole[0]),
            limits.max if whole[1] is None else min(limits.max, whole[1]),
        )

    def _parameters(self, step: onnx.NodeProto) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        zero = self._constant(step.input[2]) if len(step.input) > 2 else None
        return self._constant(step.input[1]), zero

    def _constant(self, name: str) -> NDArray[Any] | None:
        if name in self.tensors:
            return np.asarray(numpy_helper.to_array(self.tensors[name]))
        node = self.producers.get(name)
        if node is None or node.op_type not in {"Constant", "Cast", "CastLike", "Identity"}:
            return None
        if node.op_type != "Constant":
            return self._constant(node.input[0])
        return np.asarray(numpy_helper.to_array(node.attribute[0].t))


def _stored_as(dtype: np.dtype[Any], form: QuantFormat) -> bool:
    """Whether a type of a file is that of a format; narrow integers lie in 8 bits."""
    if form.is_fp8 or dtype.name == E4M3:
        return form.is_fp8 and dtype.name == E4M3
    if dtype.name == INT4:
        return form.block is not None
    return form.block is None and (dtype.kind == "i") == form.signed


def _off_centre(zero: NDArray[Any] | None, form: QuantFormat) -> str | None:
    """A complaint about a zero point that a symmetric format does not have."""
    centre = 0 if form.signed else 2 ** (form.used_bits - 1)
    if not form.symmetric or np.all((0 if zero is None else zero) == centre):
        return None
    return "its zero point is not in the middle of its range"


def _words(form: QuantFormat) -> str:
    sign, middle = ("signed" if form.signed else "unsigned"), ("symmetric" if form.symmetric else "asymmetric")
    if form.is_fp8:
        return f"E4M3, by {form.granularity.value}"
    by = form.granularity.value if form.block is None else f"blocks of {form.block}"
    return f"{form.bits} bits, {sign}, {middle}, by {by}"
