"""Lint of explicit Q/DQ for TensorRT: what its builder will refuse, and what will run in float, by layer name.

The rules are those of TensorRT-RTX 1.7, found by building one network for each of them; a test builds them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from pydantic import BaseModel, ConfigDict

from bitwright.foundation.errors import UsageError
from deploy.engine import Runtime
from deploy.onnx_attributes import number
from deploy.onnx_layers import LAYER_OPS, layers_with_weights

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

CARRIERS = frozenset(
    {"DepthToSpace", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Transpose"}
)
"""Operators that may lie between a DequantizeLinear and its layer: they only move or choose values."""

_STORED = frozenset(
    {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1}
)
_NAMED = 8


class Finding(BaseModel):
    """One Q/DQ placement that TensorRT does not take. `refused`: the build fails; else the layer runs in float."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    node: str
    problem: str
    remedy: str
    refused: bool

    @property
    def text(self) -> str:
        """The finding in one line."""
        effect = "refused" if self.refused else "runs in float"
        return f"{self.layer} ({effect}): {self.problem}; {self.remedy}"


def lint(file: onnx.ModelProto, runtime: Runtime = Runtime.TENSORRT_RTX) -> tuple[Finding, ...]:
    """All findings, refused ones first, in graph order. Layers without any Q/DQ are not looked at."""
    graph = _Graph.of(file)
    refused = [finding for node in file.graph.node for finding in _refusals(graph, node)]
    unfused = [finding for name, node, _ in graph.layers for finding in _unfused(graph, name, node, runtime)]
    return (*refused, *unfused)


def require_accepted(findings: tuple[Finding, ...], runtime: Runtime, name: str) -> None:
    """UsageError that names the layers whose Q/DQ the builder would refuse."""
    refused = [finding for finding in findings if finding.refused]
    alike: dict[str, list[str]] = {}
    for finding in refused:
        alike.setdefault(f"{finding.problem} ({finding.remedy})", []).append(finding.layer)
    if refused:
        told = "; ".join(f"{_some(layers)}: {what}" for what, layers in alike.items())
        raise UsageError(f"{runtime} does not accept {len(refused)} quantisers of {name}: {told}")


def _some(findings: list[str]) -> str:
    layers = list(dict.fromkeys(findings))
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    return ", ".join(layers[:_NAMED]) + more


@dataclass(frozen=True)
class _Graph:
    constants: dict[str, onnx.TensorProto]
    producers: dict[str, onnx.NodeProto]
    readers: dict[str, list[onnx.NodeProto]]
    layers: tuple[tuple[str, onnx.NodeProto, str], ...]
    names: dict[str, str] = field(default_factory=dict)
    """Layer by the first output of its node."""

    @staticmethod
    def of(file: onnx.ModelProto) -> _Graph:
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in file.graph.node:
            for tensor in node.input:
                readers.setdefault(tensor, []).append(node)
        layers = tuple(layers_with_weights(file))
        return _Graph(
            constants={tensor.name: tensor for tensor in file.graph.initializer},
            producers={output: node for node in file.graph.node for output in node.output},
            readers=readers,
            layers=layers,
            names={node.output[0]: name for name, node, _ in layers},
        )

    def value(self, tensor: str) -> np.ndarray | None:
        """A constant's numbers; None for a tensor that is computed."""
        found = self.constants.get(tensor)
        return None if found is None else numpy_helper.to_array(found)

    def readers_of(self, node: onnx.NodeProto) -> str:
        """Names of the layers that read what a node makes, else of those that made it, else the node's own."""
        forward, backward = dict.fromkeys(self._ahead(node)), dict.fromkeys(self._behind(node))
        return ", ".join(forward or backward) or str(node.name or node.output[0])

    def _ahead(self, node: onnx.NodeProto) -> Iterator[str]:
        for reader in (reader for output in node.output for reader in self.readers.get(output, ())):
            if reader.op_type in LAYER_OPS:
                yield self.names.get(reader.output[0], str(reader.name))
            else:
                yield from self._ahead(reader)

    def _behind(self, node: onnx.NodeProto) -> Iterator[str]:
        maker = self.producers.get(node.input[0])
        if maker is not None and maker.op_type in LAYER_OPS:
            yield self.names.get(maker.output[0], str(maker.name))
        elif maker is not None:
            yield from self._behind(maker)


def _refusals(graph: _Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type not in {QUANTIZE, DEQUANTIZE}:
        return

    def refuse(problem: str, remedy: str) -> Finding:
        name = str(node.name or node.output[0])
        return Finding(layer=graph.readers_of(node), node=name, problem=problem, remedy=remedy, refused=True)

    stored = graph.constants.get(node.input[0]) if node.op_type == DEQUANTIZE else None
    zero = graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    kind = stored.data_type if stored is not None else zero.data_type if zero is not None else TensorProto.UINT8
    written = TensorProto.DataType.Name(kind).lower()
    if stored is not None and kind == TensorProto.INT32:
        yield refuse(f"its bias is {written} behind {node.op_type}", "export it with biases in float")
    elif stored is not None and kind == TensorProto.UINT8:
        yield refuse("its weights are unsigned", "quantise weights symmetrically, to int8")
    elif kind not in _STORED:
        yield refuse(f"{node.op_type} makes or reads {written}", "quantise to int8")
    if zero is not None and kind != TensorProto.INT32 and numpy_helper.to_array(zero).any():
        what = "its weights have" if stored is not None else "its input has"
        yield refuse(f"{what} a zero point other than 0", "quantise symmetrically")
    scale = graph.value(node.input[1])
    if scale is not None and not bool((scale > 0).all()):
        yield refuse("a scale is not positive", "calibrate again: a range may be empty")
    maker = graph.producers.get(node.input[0]) if node.op_type == DEQUANTIZE else None
    if maker is not None and maker.op_type != QUANTIZE:
        yield refuse(
            f"{maker.op_type} lies between its integers and {node.op_type}", "put the folded constant in front"
        )


def _unfused(graph: _Graph, name: str, node: onnx.NodeProto, runtime: Runtime) -> Iterator[Finding]:
    def float_because(problem: str, remedy: str) -> Finding:
        return Finding(layer=name, node=str(node.name or node.output[0]), problem=problem, remedy=remedy, refused=False)

    weight = _weight_quantiser(graph, node)
    if weight is not None and number(weight, "block_size", 0):
        # Multiplied in float, as it was planned, by a kernel that dequantises them.
        if node.op_type not in {"Gemm", "MatMul"}:
            yield float_because("its weights are in blocks", "quantise weights of convolutions to int8")
        return
    carried, blocker = _carried(graph, node.input[0])
    if weight is None:
        if carried:
            yield float_because("its input is quantised and its weight is not", "quantise both, or neither")
        return
    if blocker is not None and _has_quantiser_behind(graph, blocker):
        yield float_because(
            f"{blocker.op_type} {blocker.name or blocker.output[0]!r} lies between its input's {DEQUANTIZE} and it",
            f"quantise what {blocker.op_type} makes",
        )
    elif not carried:
        yield float_because("its weight is quantised and its input is not", "quantise its input, or leave it in float")
    if any(_size(graph, quantiser.input[1]) > 1 for quantiser in carried):
        yield float_because("its input has one scale for each channel", "give activations one scale for the tensor")
    if _size(graph, weight.input[1]) > 1 and _axis(weight) != _output_axis(graph, node):
        yield float_because(
            f"the scales of its weights lie along axis {_axis(weight)}",
            f"lay them along the output channels, axis {_output_axis(graph, node)}",
        )
    if node.op_type == "ConvTranspose" and runtime is Runtime.TENSORRT_RTX:
        yield float_because(f"{runtime} has no integer or fp8 kernel for transposed convolutions", "leave it in float")


def _weight_quantiser(graph: _Graph, node: onnx.NodeProto) -> onnx.NodeProto | None:
    step = graph.producers.get(node.input[1])
    while step is not None and step.op_type in CARRIERS:
        step = graph.producers.get(step.input[0])
    return step if step is not None and step.op_type == DEQUANTIZE else None


def _carried(graph: _Graph, tensor: str) -> tuple[list[onnx.NodeProto], onnx.NodeProto | None]:
    """The quantisers that a layer's input comes from through carriers; else the operator that is in the way."""
    node = graph.producers.get(tensor)
    if node is None:
        return [], None
    if node.op_type == DEQUANTIZE:
        return [node], None
    if node.op_type in CARRIERS:
        return _carried(graph, node.input[0])
    if node.op_type == "Concat":
        parts = [_carried(graph, part)[0] for part in node.input]
        scales = {scale.tobytes() for part in parts for dq in part if (scale := graph.value(dq.input[1])) is not None}
        # Integers of different scales cannot stand side by side: the parts are dequantised and joined in float.
        return ([dq for part in parts for dq in part], None) if all(parts) and len(scales) == 1 else ([], node)
    return [], node


def _has_quantiser_behind(graph: _Graph, node: onnx.NodeProto) -> bool:
    pending, seen = list(node.input), set[str]()
    while pending:
        tensor = pending.pop()
        maker = graph.producers.get(tensor)
        if maker is None or tensor in seen:
            continue
        seen.add(tensor)
        if maker.op_type == DEQUANTIZE:
            return True
        if maker.op_type not in LAYER_OPS:
            pending.extend(maker.input)
    return False


def _size(graph: _Graph, tensor: str) -> int:
    value = graph.value(tensor)
    return 1 if value is None else int(value.size)


def _axis(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 1)


def _output_axis(graph: _Graph, node: onnx.NodeProto) -> int:
    """The axis of a layer's weight, as it stands in front of its DequantizeLinear, that counts output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    step = graph.producers.get(node.input[1])
    while step is not None and step.op_type != DEQUANTIZE:
        transposed ^= step.op_type == "Transpose"
        step = graph.producers.get(step.input[0])
    return 0 if transposed else 1
