"""The audit of an engine by what its runtime was seen to execute on another machine; nothing in the file is trusted."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from bitwright.foundation.errors import UsageError
from compress.plan import Plan
from deploy.audit import Audit, audit_nodes
from deploy.engine import EngineSpec, ExecutedNode, Runtime
from deploy.engines import litert_nodes, onnxruntime_engine
from deploy.engines.exported_graph import ExportedGraph


def audit_elsewhere(file: Path, engine: Path, spec: EngineSpec, onnx_path: Path, plan: Plan) -> Audit:
    """Hold the plan against `file`, which a session of the engine in the folder `engine` wrote on another machine.

    `onnx_path`: the file that the engine was built from. UsageError where `file` is not what such a session writes.
    """
    exported = ExportedGraph.read(engine / spec.onnx)
    nodes = _litert(file, exported) if spec.runtime is Runtime.LITERT else _onnxruntime(file, exported)
    return audit_nodes(nodes, spec, onnx_path, plan)


def _onnxruntime(file: Path, exported: ExportedGraph) -> tuple[ExecutedNode, ...]:
    try:
        return onnxruntime_engine.nodes_of(onnx.load(file, load_external_data=False).graph, exported)
    except (DecodeError, IndexError, ValueError) as error:
        raise UsageError(f"{file} is no graph of ONNX Runtime: {error}") from error


def _litert(file: Path, exported: ExportedGraph) -> tuple[ExecutedNode, ...]:
    try:
        recorded = litert_nodes.Executed.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{file} does not tell what LiteRT executes: {error.errors()[0]['msg']}") from error
    return litert_nodes.executed_nodes(recorded, exported.nodes)
