"""Audit: planned against executed precision of every layer, read from the built engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation.errors import VerificationError
from compress.plan import LayerPlan, Plan
from deploy.engine import Engine, EngineSpec, ExecutedNode, SparseTactics
from deploy.engines.exported_graph import ExportedGraph, computes_layer
from deploy.runtimes import W4A16, Runtime

INTEGER, FP8 = "int8", "fp8"
QUANTIZED = (INTEGER, FP8, W4A16)
"""What quantised layers are planned in, in all runtimes but QONNX."""
UNKNOWN = "unknown"
_NAMED = 8


class LayerAudit(BaseModel):
    """One layer of the plan and the executed nodes that compute it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    planned: str = Field(
        description="int8, fp8 or w4a16 for quantised layers, or their bits in QONNX, else the plan's float precision"
    )
    executed: str = Field(description="precision as the runtime reports it; unknown if the engine shows no such layer")
    kernel: str = Field(description="the runtime's names of the kernels; empty if unknown")
    reason: str = Field(description="what differs from the plan, in words; empty if nothing does")

    @property
    def mismatch(self) -> bool:
        """Whether the layer is not shown to have executed as planned."""
        return self.planned != self.executed


class Audit(BaseModel):
    """The layers of a plan in network order; `planned` and `executed` count them per precision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str
    runtime_version: str
    layers: tuple[LayerAudit, ...]
    planned: dict[str, int]
    executed: dict[str, int]
    unplanned: tuple[str, ...] = Field(default=(), description="layers of the exported graph that the plan lacks")
    sparse: SparseTactics | None = Field(
        default=None, description="what the builder told of structured sparsity; null where it told nothing"
    )
    unknown_because: str | None = Field(
        default=None, description="why nothing that this machine executes tells what the device does; null: audited"
    )

    @property
    def mismatches(self) -> tuple[LayerAudit, ...]:
        """The layers that are not shown to have executed as planned; none where nothing could be shown here."""
        return () if self.unknown_because else tuple(layer for layer in self.layers if layer.mismatch)

    def require(self) -> None:
        """Raise VerificationError, naming the layers, unless every layer executed as planned."""
        wrong = self.mismatches
        if wrong:
            named = "; ".join(f"{m.layer}: {m.reason}" for m in wrong[:_NAMED])
            more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            raise VerificationError(
                f"{len(wrong)} of {len(self.layers)} layers did not execute as planned in {self.runtime}: {named}{more}"
            )


def audit(engine: Engine, onnx_path: Path, plan: Plan) -> Audit:
    """Compare the plan with the graph that `engine` executes. `onnx_path`: the file that the engine was built from.

    A layer that cannot be found in the executed graph is a mismatch, never assumed to be fine.
    """
    found = audit_nodes(engine.executed_nodes(), engine.spec, onnx_path, plan)
    return found.model_copy(update={"sparse": engine.sparse_tactics()})


def audit_nodes(nodes: Iterable[ExecutedNode], spec: EngineSpec, onnx_path: Path, plan: Plan) -> Audit:
    """As `audit`, for what the engine of `spec` was seen to execute, on whatever machine."""
    exported = ExportedGraph.read(onnx_path)
    executed: dict[str, list[ExecutedNode]] = {}
    for node in nodes:
        for origin in node.origins if computes_layer(node.op) else ():
            executed.setdefault(origin, []).append(node)
    layers = []
    for name, decision in plan.layers.items():
        planned = planned_precision(decision, plan.float_precision, spec.runtime)
        node_name = exported.layers.get(name)
        computing = executed.get(node_name, []) if node_name is not None else []
        layers.append(_compare(name, planned, computing, spec.runtime, node_name is not None))
    return Audit(
        runtime=spec.runtime,
        runtime_version=spec.runtime_version,
        layers=tuple(layers),
        planned=dict(Counter(layer.planned for layer in layers)),
        executed=dict(Counter(layer.executed for layer in layers)),
        unplanned=tuple(name for name in exported.layers if name not in plan.layers),
    )


def unaudited(runtime: Runtime, runtime_version: str, plan: Plan, why: str) -> Audit:
    """The plan alone, for an engine whose device executes other kernels than this machine has: nothing is claimed."""
    planned = {name: planned_precision(layer, plan.float_precision, runtime) for name, layer in plan.layers.items()}
    return Audit(
        runtime=runtime,
        runtime_version=runtime_version,
        layers=tuple(
            LayerAudit(layer=name, planned=precision, executed=UNKNOWN, kernel="", reason="")
            for name, precision in planned.items()
        ),
        planned=dict(Counter(planned.values())),
        executed={},
        unknown_because=why,
    )


def planned_precision(layer: LayerPlan, float_precision: str, runtime: Runtime) -> str:
    """What a layer of a plan should execute in: fp8, or int8 whatever its bits, because runtimes store fewer in 8.

    A layer with only its weight quantised computes in float, on what its kernel dequantises. In QONNX, which has every
    width, int4 where weights and activations have 4 bits and w4a8 where they differ.
    """
    if layer.weight is None:
        return float_precision
    if layer.activation is None:
        return W4A16 if layer.weight.bits == 4 else float_precision
    if layer.fp8:
        return FP8
    if runtime is not Runtime.QONNX:
        return INTEGER
    weight, activation = layer.weight.used_bits, layer.activation.used_bits
    return f"int{weight}" if weight == activation else f"w{weight}a{activation}"


def _compare(name: str, planned: str, nodes: list[ExecutedNode], runtime: str, exported: bool) -> LayerAudit:
    executed = "+".join(sorted({node.precision for node in nodes})) or UNKNOWN
    kernel = ", ".join(dict.fromkeys(node.kernel for node in nodes))
    reason = ""
    if not exported:
        reason = f"planned {planned}, but the exported graph has no such layer"
    elif not nodes:
        reason = f"planned {planned}, but no node that {runtime} executes is known to compute it"
    elif planned in QUANTIZED and planned != executed:
        kernels = "integer" if planned == INTEGER else planned
        reason = (
            f"planned {planned}, executed {executed} by {kernel}; its input, weight or output does not have the "
            f"form that {runtime}'s {kernels} kernels need"
        )
    elif planned != executed:
        reason = f"planned {planned}, executed {executed} by {kernel}"
    return LayerAudit(layer=name, planned=planned, executed=executed, kernel=kernel, reason=reason)
