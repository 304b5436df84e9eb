"""ExportedGraph: the ONNX file that an engine was built from, read to tell which of its nodes is which layer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

from bitwright.foundation.errors import UsageError
from bitwright.foundation.optional import require
from deploy.onnx_layers import layer_of_nodes

_LAYER_KERNEL = re.compile("conv(?!ert)|gemm|matmul|fullyconnected", re.IGNORECASE)


def computes_layer(op: str) -> bool:
    """Whether a runtime's node type is a convolution or matrix product, in any of the runtimes' spellings."""
    return _LAYER_KERNEL.search(op) is not None


def node_key(node: onnx.NodeProto) -> str:
    """A node's name; unnamed nodes go by their first output, as runtimes call them."""
    return str(node.name or node.output[0])


@dataclass(frozen=True)
class ExportedGraph:
    """Nodes by name, the name of the node that makes each tensor, and the name of each layer's node.

    Layers go by the names that they have in a plan: `name#2` for the second call of a shared weight.
    """

    nodes: dict[str, onnx.NodeProto]
    producers: dict[str, str]
    layers: dict[str, str]

    @staticmethod
    def read(path: Path) -> ExportedGraph:
        """Read an ONNX file; UsageError if it is not one."""
        try:
            file = onnx.load(path)
        except (OSError, require("google.protobuf.message").DecodeError) as error:
            raise UsageError(f"{path} cannot be read as ONNX: {error}") from error
        return ExportedGraph(
            nodes={node_key(node): node for node in file.graph.node},
            producers={output: node_key(node) for node in file.graph.node for output in node.output},
            layers={layer: node_key(node) for layer, node in layer_of_nodes(file)},
        )

    def reader(self, weight: str) -> str | None:
        """Name of the node that reads a weight's initialiser; None if there is none, or more than one."""
        layer = weight.removesuffix(".integers").removesuffix(".weight")
        return None if f"{layer}#2" in self.layers else self.layers.get(layer)

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
