"""OpenVINO on the CPU: compiles the exported ONNX file; the executed graph is the runtime model of the compiled one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.foundation.errors import UsageError
from deploy.engine import CallTimes, Engine, EngineSpec, ExecutedCall, ExecutedNode
from deploy.engines.exported_graph import ExportedGraph, computes_layer
from deploy.engines.openvino_profile import PRECISIONS, activations, block_means, node_facts, written
from deploy.engines.openvino_session import OpenVinoSession, reason

_NOT_COMPUTED = frozenset({"Const", "Input", "Output"})


class OpenVinoEngine(Engine):
    """OpenVINO's CPU plug-in, one stream, the float precision always stated and nothing cached on disk."""

    def __init__(self, spec: EngineSpec, folder: Path, threads: int) -> None:
        super().__init__(spec, folder, threads)
        self._session = OpenVinoSession(folder / spec.artefact, threads, spec.float_precision, spec.input_shape)

    @property
    def options(self) -> dict[str, str]:
        """The compile options that decide speed and numerics, as they were set."""
        return dict(self._session.options)

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32; UsageError when the network does not take that shape."""
        return self._session.run(x)

    def executed_nodes(self) -> tuple[ExecutedNode, ...]:
        """The nodes of the runtime model, constants, input and output left out.

        An engine that is specialised on a shape holds two compiled networks; the nodes of both are returned.
        """
        exported = ExportedGraph.read(self.folder / self.spec.artefact)
        return tuple(node for network in self._session.compiled() for node in _nodes(network, exported))

    def time_calls(self, x: np.ndarray, *, warm_up: int, runs: int, blocks: int) -> CallTimes:
        """Time each call of a network that is compiled anew, specialised on the shape of `x`."""
        compiled = self._session.compile(x.shape, profiled=True)
        exported = ExportedGraph.read(self.folder / self.spec.artefact)
        try:
            means = list(block_means(compiled.create_infer_request(), x, warm_up, runs, blocks))
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"OpenVINO cannot run {x.dtype} {list(x.shape)}: {reason(error)}") from error
        calls = tuple(
            ExecutedCall(**_node(node, exported).model_dump(), inputs=read, outputs=written(node))
            for node, read in activations(compiled.get_runtime_model(), means[0])
        )
        return CallTimes(calls=calls, blocks_ms=tuple(tuple(mean[call.name] for call in calls) for mean in means))


def _nodes(compiled: Any, exported: ExportedGraph) -> Iterator[ExecutedNode]:
    for node in compiled.get_runtime_model().get_ordered_ops():
        if node_facts(node)["layerType"] not in _NOT_COMPUTED:
            yield _node(node, exported)


def _node(node: Any, exported: ExportedGraph) -> ExecutedNode:
    info = node_facts(node)
    return ExecutedNode(
        name=node.get_friendly_name(),
        op=info["layerType"],
        precision=PRECISIONS.get(info["runtimePrecision"], info["runtimePrecision"]),
        kernel=info["primitiveType"],
        origins=_origins(info["originalLayersNames"], info["layerType"], exported),
    )


def _origins(names: str, op: str, exported: ExportedGraph) -> tuple[str, ...]:
    """Exported nodes in a comma-separated list of names, some with suffixes such as `/WithoutBiases`.

    The node that makes the network's output goes by the name of that tensor instead of its own.
    """
    found: dict[str, None] = {}
    layers = frozenset(exported.layers.values())
    for name in names.split(","):
        shorter = name
        while shorter and shorter not in exported.nodes:
            shorter = shorter.rpartition("/")[0]
        if shorter:
            found[shorter] = None
        elif name in exported.producers:
            behind = exported.behind(name, ())
            made = [key for key in behind if key in layers] if computes_layer(op) else []
            found[made[0] if len(made) == 1 else exported.producers[name]] = None
    return tuple(found)
