"""ONNX Runtime on the CPU: runs the exported ONNX file; the executed graph is what its optimiser writes out."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import onnx

from deploy.engine import CallTimes, Engine, EngineSpec, ExecutedCall, ExecutedNode
from deploy.engines.exported_graph import ExportedGraph, computes_layer
from deploy.engines.onnxruntime_profile import PRECISIONS, activations, call_events
from deploy.engines.onnxruntime_session import OnnxRuntimeSession, session_options
from deploy.onnx_layers import LAYER_OPS

_RENAMED = re.compile(r"(_token_\d+|_nchwc|/duplicated)$")
_INTEGER_OPS = re.compile(r"^(QLinear|QGemm|ConvInteger$|MatMulInteger|DynamicQuantizeMatMul$)")
_NCHWC = "com.microsoft.nchwc"


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime's CPU execution provider with all graph optimisations."""

    def __init__(self, spec: EngineSpec, folder: Path, threads: int) -> None:
        super().__init__(spec, folder, threads)
        self._session = self._open()

    @property
    def options(self) -> dict[str, str]:
        """The session options that decide speed, as they were set."""
        return session_options(self.threads)

    def _open(self, optimized: Path | None = None, events: Path | None = None) -> OnnxRuntimeSession:
        path = self.folder / self.spec.artefact
        return OnnxRuntimeSession(path, self.threads, self.spec.float_precision, optimized=optimized, events=events)

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32; UsageError when the network does not take that shape."""
        return self._session.run(x)

    def executed_nodes(self) -> tuple[ExecutedNode, ...]:
        """The nodes of the graph that ONNX Runtime writes out after optimising under the options of this session."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            self._session.write_executed(path)
            return self._nodes(onnx.load(path, load_external_data=False).graph)

    def _nodes(self, graph: onnx.GraphProto) -> tuple[ExecutedNode, ...]:
        return nodes_of(graph, ExportedGraph.read(self.folder / self.spec.artefact))

    def time_calls(self, x: np.ndarray, *, warm_up: int, runs: int, blocks: int) -> CallTimes:
        """Time each call by the session's own profiler, which has a resolution of a microsecond."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            session = self._open(path, Path(folder) / "events")
            for _ in range(warm_up + runs * blocks):
                session.run(x)
            events = call_events(session.end_profiling(), warm_up + runs * blocks)
            graph = onnx.load(path, load_external_data=False).graph
        nodes = {node.name: node for node in self._nodes(graph)}
        protos = {node.name or node.output[0]: node for node in graph.node}
        types = activations(graph, events)
        calls = tuple(
            ExecutedCall(**nodes[name].model_dump(), inputs=types[name][0], outputs=types[name][1])
            for name in events
            if name in protos
        )
        spans = [slice(warm_up + i * runs, warm_up + (i + 1) * runs) for i in range(blocks)]
        return CallTimes(
            calls=calls,
            blocks_ms=tuple(tuple(float(np.mean(events[c.name].ms[span])) for c in calls) for span in spans),
        )


def nodes_of(graph: onnx.GraphProto, exported: ExportedGraph) -> tuple[ExecutedNode, ...]:
    """The nodes of a graph that ONNX Runtime has optimised, here or elsewhere, from the exported one."""
    types = _tensor_types(graph)
    origins = _settle([_origins(node, exported) for node in graph.node], exported)
    return tuple(
        ExecutedNode(
            name=node.name or node.output[0],
            op=node.op_type,
            precision=_precision(node, types),
            kernel=f"{node.domain or 'ai.onnx'}.{node.op_type}",
            origins=found,
        )
        for node, found in zip(graph.node, origins, strict=True)
    )


def _tensor_types(graph: onnx.GraphProto) -> dict[str, int]:
    """ONNX element type of each tensor of an optimised graph, as far as the file says or the operators imply."""
    values = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    types |= {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for node in graph.node:
        # The layout transforms leave their tensors untyped; the blocked layout has float kernels only.
        if node.op_type == "DequantizeLinear" or node.domain == _NCHWC:
            implied = onnx.TensorProto.FLOAT
        else:
            sources = node.input[2:] if node.op_type == "QuantizeLinear" else node.input
            implied = next((types[tensor] for tensor in sources if tensor in types), onnx.TensorProto.UNDEFINED)
        for output in node.output:
            types.setdefault(output, implied)
    return types


def _precision(node: onnx.NodeProto, types: dict[str, int]) -> str:
    if _INTEGER_OPS.match(node.op_type):
        return "int8"
    made = types[node.output[0]]
    return PRECISIONS.get(made, str(onnx.TensorProto.DataType.Name(made)).lower())


def _origins(node: onnx.NodeProto, exported: ExportedGraph) -> tuple[str, ...]:
    """Exported nodes behind an optimised one: by its own name, by the weight it reads, and by the tensor it makes."""
    found: dict[str, None] = {}
    for name in _spellings(node.name):
        if name in exported.nodes:
            found[name] = None
    for tensor in node.input if computes_layer(node.op_type) else ():
        reader = next(filter(None, map(exported.reader, _spellings(tensor))), None)
        if reader is not None:
            found[reader] = None
    layers = frozenset(exported.layers.values())
    wants_layer = computes_layer(node.op_type) and not layers & found.keys()
    stop = {name for tensor in node.input for name in _spellings(tensor)}
    for made in [*node.output, node.name]:
        # The blocked layout renames its tensors and names the node after the tensor that it used to make.
        tensor = next((t for t in _spellings(made) if t in exported.producers), None)
        if tensor is not None:
            behind = exported.behind(tensor, stop)
            # What multiplies two activations, as attention does, computes none of the layers that they come from.
            product = any(key not in layers and exported.nodes[key].op_type in LAYER_OPS for key in behind)
            takes_layer = wants_layer and not product
            found.update(dict.fromkeys(key for key in behind if takes_layer or key not in layers))
    return tuple(found)


def _settle(origins: list[tuple[str, ...]], exported: ExportedGraph) -> list[tuple[str, ...]]:
    """Drop layers from nodes with several candidates as long as another node has that layer as its only one."""
    layers = frozenset(exported.layers.values())
    while True:
        own = [layers.intersection(found) for found in origins]
        certain = frozenset().union(*(candidates for candidates in own if len(candidates) == 1))
        settled = [
            tuple(key for key in found if key not in certain) if len(candidates) > 1 and candidates - certain else found
            for found, candidates in zip(origins, own, strict=True)
        ]
        if settled == origins:
            return settled
        origins = settled


def _spellings(name: str) -> tuple[str, ...]:
    """A name and what it was before the optimiser appended to it, nearest first."""
    names = [name]
    while (shorter := _RENAMED.sub("", names[-1])) != names[-1]:
        names.append(shorter)
    return tuple(names)
