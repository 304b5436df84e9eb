"""verify_nm: whether the final tensors of an ONNX file keep the planned patterns, on the axis that runtimes read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper

from bitwright.foundation.errors import VerificationError
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import Axis, LayerKind, WeightLayout
from compress.sparsity.legality import Legality, check
from deploy.onnx_layers import layers_with_weights


@dataclass(frozen=True)
class LayerLegality:
    """What was found in one layer; `legality` is None where the file cannot be read as planned, `reason` says why.

    `channels`: those that one output sums over in the file, C / g; 0 where it cannot be read.
    """

    layer: str
    legality: Legality | None
    reason: str = ""
    channels: int = 0

    @property
    def holds(self) -> bool:
        """Whether the pattern was found."""
        return self.legality is not None and self.legality.holds


def read_nm(path: Path, patterns: Mapping[str, Sparsity]) -> tuple[LayerLegality, ...]:
    """Look at the weight of each planned layer in the file. Integers count as what they are less their zero point."""
    file = onnx.load(path)
    found: dict[str, LayerLegality] = {}
    for name, node, source in layers_with_weights(file):
        if name in patterns:
            found[name] = _looked_at(file, name, node, source, patterns[name])
    missing = [LayerLegality(n, None, "the file has no such layer") for n in patterns if n not in found]
    return (*found.values(), *missing)


def verify_nm(path: Path, patterns: Mapping[str, Sparsity]) -> tuple[LayerLegality, ...]:
    """`read_nm`, with a VerificationError that names the first layer whose pattern the file does not keep."""
    looked = read_nm(path, patterns)
    for layer in looked:
        if not layer.holds:
            raise VerificationError(f"{path.name}: layer {layer.layer} is not {patterns[layer.layer]}: {layer.reason}")
    return looked


def _looked_at(file: onnx.ModelProto, name: str, node: onnx.NodeProto, source: str, pattern: Sparsity) -> LayerLegality:
    initializers = {i.name: i for i in file.graph.initializer}
    values = numpy_helper.to_array(initializers[source])
    # numpy itself has no bf16.
    weight = torch.from_numpy(values.copy() if values.dtype.kind in "iuf" else values.astype("float32"))
    producers = {output: n for n in file.graph.node for output in n.output}
    step = producers.get(node.input[1])
    turned = False
    while step is not None:
        if step.op_type == "Transpose":
            perm = _perm(step, weight.dim())
            if node.op_type not in {"Gemm", "MatMul"} or perm != [1, 0]:
                return LayerLegality(name, None, f"its weight is transposed by {perm} on the way to {node.op_type}")
            turned = not turned
        elif step.op_type == "DequantizeLinear":
            if len(step.input) > 2 and step.input[2]:
                zero = initializers.get(step.input[2])
                if zero is None or numpy_helper.to_array(zero).any():
                    # Pruned weights are then not the integer zero, which is what sparse kernels skip.
                    return LayerLegality(name, None, "its weights have a zero point other than 0")
        elif step.op_type not in {"Identity", "Clip"}:
            return LayerLegality(name, None, f"its weight passes through {step.op_type}")
        step = producers.get(step.input[0])
    layout, axis = _axis(node, turned)
    result = check(weight, pattern, layout, axis)
    return LayerLegality(name, result, result.reason, layout.length(tuple(weight.shape), axis))


def _perm(transpose: onnx.NodeProto, dims: int) -> list[int]:
    """What becomes of the dimensions; by default they are reversed."""
    given = [list(onnx.helper.get_attribute_value(a)) for a in transpose.attribute if a.name == "perm"]
    return given[0] if given else list(range(dims))[::-1]


def _axis(node: onnx.NodeProto, turned: bool) -> tuple[WeightLayout, Axis]:
    """The layout and the axis along which the node sums: MatMul reads (C, K), so that groups lie along dimension 0."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    groups = int(attributes.get("group", 1))
    if node.op_type == "Conv":
        return WeightLayout(LayerKind.CONV, groups), Axis.INPUT
    if node.op_type == "ConvTranspose":
        return WeightLayout(LayerKind.CONV_TRANSPOSE, groups), Axis.INPUT
    sums_along_last = (node.op_type == "Gemm" and bool(attributes.get("transB", 0))) != turned
    return WeightLayout(LayerKind.LINEAR), Axis.INPUT if sums_along_last else Axis.OUTPUT
