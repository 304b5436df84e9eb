"""OpenVINO on the CPU: compiles the exported ONNX file; the executed graph is the runtime model of the compiled one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.foundation.errors import UsageError
from deploy.engine import CallTimes, Engine, EngineSpec, ExecutedCall, ExecutedNode, FloatPrecision, Runtime
from deploy.engines.exported_graph import ExportedGraph, computes_layer
from deploy.engines.openvino_profile import PRECISIONS, activations, block_means, node_facts, written
from deploy.engines.runtime_packages import import_runtime

_HINTS = {FloatPrecision.FP32: "f32", FloatPrecision.BF16: "bf16"}
_NOT_COMPUTED = frozenset({"Const", "Input", "Output"})


class OpenVinoEngine(Engine):
    """OpenVINO's CPU plug-in, one stream, the float precision always stated and nothing cached on disk."""

    def __init__(self, spec: EngineSpec, folder: Path, threads: int) -> None:
        super().__init__(spec, folder, threads)
        self._shape = spec.input_shape
        self._compiled: Any = self._compile(self._shape)
        self._request = self._compiled.create_infer_request()
        self._general: Any = None if self._shape is not None else self._compiled
        self._general_request: Any = None if self._shape is not None else self._request

    def _compile(self, shape: tuple[int, ...] | None, *, profiled: bool = False) -> Any:
        core = import_runtime(Runtime.OPENVINO).Core()
        path = self.folder / self.spec.artefact
        try:
            network = core.read_model(str(path))
            if shape is not None:
                network.reshape(list(shape))
            return core.compile_model(network, "CPU", self.options | ({"PERF_COUNT": "YES"} if profiled else {}))
        except RuntimeError as error:
            raise UsageError(f"OpenVINO cannot load {path}: {_reason(error)}") from error

    def _request_for(self, shape: tuple[int, ...]) -> Any:
        """The specialised request if it takes the shape; else the general one, compiled when it is first needed."""
        if shape == self._shape:
            return self._request
        if self._general is None:
            self._general = self._compile(None)
        if self._general_request is None:
            self._general_request = self._general.create_infer_request()
        return self._general_request

    @property
    def options(self) -> dict[str, str]:
        """The compile options that decide speed and numerics, as they were set."""
        return {
            "INFERENCE_PRECISION_HINT": _HINTS[self.spec.float_precision],
            "INFERENCE_NUM_THREADS": str(self.threads),
            "NUM_STREAMS": "1",
        }

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32; UsageError when the network does not take that shape."""
        if x.dtype != np.float32:
            raise UsageError(f"OpenVINO cannot run {x.dtype} {list(x.shape)}: the network takes float32")
        try:
            output: np.ndarray = self._request_for(x.shape).infer([x], share_inputs=True)[0]
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"OpenVINO cannot run {x.dtype} {list(x.shape)}: {_reason(error)}") from error
        return output

    def executed_nodes(self) -> tuple[ExecutedNode, ...]:
        """The nodes of the runtime model, constants, input and output left out.

        An engine that is specialised on a shape holds two compiled networks; the nodes of both are returned.
        """
        exported = ExportedGraph.read(self.folder / self.spec.artefact)
        if self._general is None:
            self._general = self._compile(None)
        networks = (self._compiled,) if self._general is self._compiled else (self._compiled, self._general)
        return tuple(node for network in networks for node in _nodes(network, exported))

    def time_calls(self, x: np.ndarray, *, warm_up: int, runs: int, blocks: int) -> CallTimes:
        """Time each call of a network that is compiled anew, specialised on the shape of `x`."""
        compiled = self._compile(x.shape, profiled=True)
        exported = ExportedGraph.read(self.folder / self.spec.artefact)
        try:
            means = list(block_means(compiled.create_infer_request(), x, warm_up, runs, blocks))
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"OpenVINO cannot run {x.dtype} {list(x.shape)}: {_reason(error)}") from error
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


def _reason(error: Exception) -> str:
    """The last line that says something: OpenVINO prints its source locations first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
