"""The audit of an engine by what its runtime was seen to execute on another machine; nothing in the file is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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
    except (DecodeError, IndexError) as error:
        raise UsageError(f"{file} is no graph of ONNX Runtime: {error}") from error


class _Operator(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    op_name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...] = Field(min_length=1)


class _Tensor(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.dtype not in np.sctypeDict:
            raise ValueError(f"{self.dtype!r} is no type of numpy")
        return self


class _RecordedInterpreter(BaseModel):
    """What `LiteRtSession.write_executed` wrote, asked as LiteRT's interpreter is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operators: tuple[_Operator, ...]
    tensors: dict[int, _Tensor]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        named = {tensor for operator in self.operators for tensor in (*operator.inputs, *operator.outputs)}
        if not named <= self.tensors.keys():
            raise ValueError("an operator reads or makes a tensor that is not listed")
        return self

    def _get_ops_details(self) -> list[dict[str, Any]]:
        return [operator.model_dump() for operator in self.operators]

    def _get_tensor_details(self, tensor: int, subgraph: int) -> dict[str, Any]:
        del subgraph
        return self.tensors[tensor].model_dump()


def _litert(file: Path, exported: ExportedGraph) -> tuple[ExecutedNode, ...]:
    try:
        recorded = _RecordedInterpreter.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{file} does not tell what LiteRT executes: {error.errors()[0]['msg']}") from error
    return litert_nodes.executed_nodes(recorded, exported.nodes)
