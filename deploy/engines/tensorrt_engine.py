"""TensorRT and TensorRT-RTX: a compiled engine. It is audited anywhere and runs on the kind of GPU that it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitwright.foundation.caches import cache_folder
from deploy.engine import Engine, EngineSpec, ExecutedNode, SparseTactics
from deploy.engines.exported_graph import ExportedGraph, computes_layer
from deploy.engines.runtime_packages import import_runtime
from deploy.engines.tensorrt_record import BuildRecord, BuiltLayer
from deploy.engines.tensorrt_session import TensorRtSession
from deploy.gpu_match import why_not_by_driver
from deploy.runtimes import W4A16

_OPS = {"correlation": "Convolution", "deconv": "Deconvolution"}
"""Kinds of layers whose TensorRT names do not say that they are convolutions."""

_FUSION = "runtime_fusion"
_FUSED = {"Corr": "Convolution", "Deco": "Deconvolution", "Fc": "Gemm"}
"""Parts of the name of a fusion, such as __myl_CorrMulMax, that say that it computes a layer."""

_PRECISIONS = {
    "int8": "int8", "int4": "int4", "fp8": "fp8", "half": "fp16", "fp16": "fp16", "bfloat16": "bf16", "bf16": "bf16",
    "float": "fp32", "fp32": "fp32", "int32": "int32", "int64": "int64", "bool": "bool",
}  # fmt: skip


class TensorRtEngine(Engine):
    """A TensorRT engine; loaded onto the GPU when it first runs, because only then one is needed."""

    def __init__(self, spec: EngineSpec, folder: Path, threads: int) -> None:
        super().__init__(spec, folder, threads)
        self._record = BuildRecord.read(folder, spec.artefact_sha256, spec.record_sha256)
        self._session: TensorRtSession | None = None
        self._cuda_graph = False

    def why_not_here(self) -> str | None:
        """No GPU here, or one of another architecture than the engine was compiled for."""
        return why_not_by_driver(self.spec.compute_capability, self.spec.profile)

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32, copied to the GPU and back.

        DeviceError where there is no GPU that the engine is for; UsageError for an input out of its range.
        """
        self.require_takes(x)
        return self._ready().run(x)

    def use_cuda_graph(self) -> None:
        """Replay the computation as a CUDA graph, captured for each new shape."""
        self._cuda_graph = True

    def gpu_stages_ms(self) -> tuple[float, float, float] | None:
        """Ms of the last run: copy to the GPU, computation, copy back; None before the first."""
        return None if self._session is None else self._session.stages_ms()

    def _ready(self) -> TensorRtSession:
        if self._session is None:
            self.require_here()
            self._session = TensorRtSession(
                import_runtime(self.spec.runtime),
                (self.folder / self.spec.artefact).read_bytes(),
                cache=cache_folder() / "tensorrt" / f"{self.spec.artefact_sha256[:16]}.runtime.cache",
                cuda_graph=self._cuda_graph,
            )
        return self._session

    def executed_nodes(self) -> tuple[ExecutedNode, ...]:
        """The layers of the engine as its builder listed them; those that only synchronise are left out."""
        nodes = ExportedGraph.read(self.folder / self.spec.onnx).nodes
        return tuple(
            ExecutedNode(
                name=layer.name,
                op=_op_of(layer),
                precision=precision_of(layer),
                kernel=layer.kind if not layer.tactic or "STUB" in layer.tactic else f"{layer.kind} {layer.tactic}",
                origins=tuple(name for name in layer.origins if name in nodes),
            )
            for layer in self._record.layers
            if layer.outputs
        )

    def sparse_tactics(self) -> SparseTactics | None:
        """What the builder told of structured sparsity; None where it told nothing, as TensorRT-RTX 1.7 does."""
        return self._record.sparse


def precision_of(layer: BuiltLayer) -> str:
    """What a layer executes in: for a convolution or matrix product the type that its input and weight share.

    In a fusion any operand may come first, so that all of them have to share it; 4-bit weights beside 16-bit floats are
    what a kernel dequantises for itself.
    """
    if layer.kind == _FUSION:
        types = (*layer.inputs, *layer.constants)
    elif computes_layer(_op_of(layer)):
        types = (*layer.inputs[:1], *_weight_type(layer))
    else:
        types = layer.inputs[:1]
    named = dict.fromkeys(_PRECISIONS.get(name.lower(), name.lower()) for name in types or layer.outputs[:1])
    return W4A16 if set(named) in ({"int4", "fp16"}, {"int4", "bf16"}) else "+".join(named)


def _op_of(layer: BuiltLayer) -> str:
    if layer.kind == _FUSION:
        return next((op for part, op in _FUSED.items() if part in layer.name), layer.kind)
    return _OPS.get(layer.kind, layer.kind)


def _weight_type(layer: BuiltLayer) -> tuple[str, ...]:
    """The first constant; where weights are dequantised by a kernel of their own, the second input.

    The constants then begin with the factors of the sum, which are fp32 in any precision.
    """
    computed = len(layer.inputs) > 1 and layer.constants[:1] == ("Float",)
    return layer.inputs[1:2] if computed else layer.constants[:1]
