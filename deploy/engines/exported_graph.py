"""ExportedGraph: the ONNX file that an engine was built from, read to tell which of its nodes is which layer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from bitwright.foundation.errors import UsageError
from bitwright.foundation.optional import require
from deploy.onnx_layers import layers_with_weights, node_key

_LAYER_KERNEL = re.compile("conv(?!ert)|gemm|matmul|fully_?connected", re.IGNORECASE)


def computes_layer(op: str) -> bool:
    """Whether a runtime's node type is a convolution or matrix product, in any of the runtimes' spellings."""
    return _LAYER_KERNEL.search(op) is not None


@dataclass(frozen=True)
class LayerShape:
    """The static side of a layer: window and stride (height, width), None for a matrix product; number of weights."""

    window: tuple[int, int] | None
    stride: tuple[int, int] | None
    groups: int | None
    weights: int
    transposed: bool

    @property
    def linear(self) -> bool:
        """Whether the layer is a matrix product."""
        return self.window is None

    @staticmethod
    def of(node: onnx.NodeProto, weight: onnx.TensorProto) -> LayerShape:
        """Read from a node of `onnx_layers.LAYER_OPS` and the initialiser of its weight."""
        numbers = math.prod(weight.dims)
        if "Conv" not in node.op_type:
            return LayerShape(None, None, None, numbers, False)
        found = {attribute.name: attribute for attribute in node.attribute}
        window = tuple(found["kernel_shape"].ints) if "kernel_shape" in found else tuple(weight.dims)[2:]
        stride = tuple(found["strides"].ints) if "strides" in found else (1, 1)
        groups = int(found["group"].i) if "group" in found else 1
        # A convolution over one dimension has no width.
        pairs = [(int(values[0]), int(values[-1])) for values in (window, stride)]
        return LayerShape(pairs[0], pairs[1], groups, numbers, node.op_type == "ConvTranspose")


@dataclass(frozen=True)
class ExportedGraph:
    """Nodes by name, the name of the node that makes each tensor, and the name of each layer's node.

    Layers go by the names that they have in a plan: `name#2` for the second call of a shared weight.
    """

    nodes: dict[str, onnx.NodeProto]
    producers: dict[str, str]
    layers: dict[str, str]
    shapes: dict[str, LayerShape] = field(default_factory=dict)
    """Shape of each layer by the name of its node."""

    @staticmethod
    def read(path: Path) -> ExportedGraph:
        """Read an ONNX file; UsageError if it is not one."""
        try:
            file = onnx.load(path)
        except (OSError, require("google.protobuf.message").DecodeError) as error:
            raise UsageError(f"{path} cannot be read as ONNX: {error}") from error
        weights = {tensor.name: tensor for tensor in file.graph.initializer}
        layers = list(layers_with_weights(file))
        return ExportedGraph(
            nodes={node_key(node): node for node in file.graph.node},
            producers={output: node_key(node) for node in file.graph.node for output in node.output},
            layers={layer: node_key(node) for layer, node, _ in layers},
            shapes={node_key(node): LayerShape.of(node, weights[weight]) for _, node, weight in layers},
        )

    def reader(self, weight: str) -> str | None:
        """Name of the node that reads a weight's initialiser; None if there is none, or more than one."""
        layer = weight.removesuffix(".integers").removesuffix(".weight")
        return None if f"{layer}#2" in self.layers else self.layers.get(layer)

    def resize_mode(self, node: str) -> str:
        """How a resize finds its values, by its node's name: nearest, linear or cubic; empty for any other node."""
        if node not in self.nodes or self.nodes[node].op_type not in {"Resize", "Upsample"}:
            return ""
        modes = (a.s.decode() for a in self.nodes[node].attribute if a.name == "mode")
        return next(modes, "nearest")

    def behind(self, tensor: str, stop: Iterable[str]) -> tuple[str, ...]:
        """Names of the nodes that make `tensor`, back to the tensors in `stop` and to layers (included)."""
        ends, layers = frozenset(stop), frozenset(self.layers.values())
        found: dict[str, None] = {}
        pending = [tensor]
        while pending:
            current = pending.pop()
            key = self.producers.get(current)
            if key is None or key in found or (current in ends and current != tensor):
                continue
            found[key] = None
            if key not in layers:
                pending.extend(self.nodes[key].input)
        return tuple(found)
