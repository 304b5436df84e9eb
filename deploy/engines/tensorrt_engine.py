"""TensorRT and TensorRT-RTX: a compiled engine. It is audited anywhere and runs on the kind of GPU that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bitwright.foundation.errors import DeviceError, UsageError
from deploy.engine import Engine, EngineSpec, ExecutedNode, SparseTactics
from deploy.engines.exported_graph import ExportedGraph, computes_layer
from deploy.engines.runtime_packages import import_runtime
from deploy.engines.tensorrt_record import BuildRecord, BuiltLayer
from deploy.engines.tensorrt_target import why_not_here
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
        self._record = BuildRecord.read(folder, spec.artefact_sha256)
        self._loaded: Any = None
        self._context: Any = None

    def why_not_here(self) -> str | None:
        """No GPU here, or one of another architecture than the engine was compiled for."""
        return why_not_here(self.spec.compute_capability, self.spec.profile)

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32, copied to the GPU and back.

        DeviceError where there is no GPU that the engine is for; UsageError for an input out of its range.
        """
        import torch

        shapes = self.spec.shapes
        if x.dtype != np.float32 or (shapes is not None and not shapes.takes(x.shape)):
            takes = "" if shapes is None else f" from {list(shapes.smallest)} to {list(shapes.largest)}"
            raise UsageError(
                f"{self.spec.runtime} cannot run {x.dtype} {list(x.shape)}: the engine takes float32{takes}"
            )
        context = self._ready()
        given, made = (self._loaded.get_tensor_name(index) for index in range(2))
        source = torch.from_numpy(np.ascontiguousarray(x)).cuda()
        if not context.set_input_shape(given, tuple(x.shape)):
            raise UsageError(f"{self.spec.runtime} cannot run {x.dtype} {list(x.shape)}: the engine refuses the shape")
        output = torch.empty(tuple(context.get_tensor_shape(made)), dtype=torch.float32, device="cuda")
        context.set_tensor_address(given, source.data_ptr())
        context.set_tensor_address(made, output.data_ptr())
        stream = torch.cuda.current_stream()
        if not context.execute_async_v3(stream.cuda_stream):
            raise DeviceError(f"{self.spec.runtime} failed while running {list(x.shape)}; see its messages above")
        result: np.ndarray = output.cpu().numpy()
        return result

    def _ready(self) -> Any:
        if self._context is None:
            self.require_here()
            api = import_runtime(self.spec.runtime)
            runtime = api.Runtime(api.Logger(api.Logger.ERROR))
            self._loaded = runtime.deserialize_cuda_engine((self.folder / self.spec.artefact).read_bytes())
            if self._loaded is None:
                raise UsageError(f"{self.spec.runtime} cannot load {self.folder / self.spec.artefact}; build it again")
            self._context = self._loaded.create_execution_context()
        return self._context

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
