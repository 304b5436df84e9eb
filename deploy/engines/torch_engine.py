"""torch: an AOTInductor package of native code, compiled from the exported ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bitwright.foundation.errors import UsageError
from deploy.engine import Engine, EngineSpec, ExecutedNode
from deploy.engines.cuda_run import CudaRun
from deploy.engines.cuda_torch import TorchCuda
from deploy.engines.torch_nodes import executed_nodes
from deploy.gpu import why_not_here, without_tf32
from deploy.torch_aot.package import MODEL, Package
from deploy.torch_threads import torch_threads


class TorchEngine(Engine):
    """A package, loaded when it first runs; before that it is only read. One package runs inputs of every size.

    Its code is native: `load_engine` has checked that the file is the one that the stamp was written for.
    """

    def __init__(self, spec: EngineSpec, folder: Path, threads: int) -> None:
        super().__init__(spec, folder, threads)
        self._package = Package.read(folder / spec.artefact)
        self._loaded: Any = None
        self._on_gpu: CudaRun | None = None
        self._cuda_graph = False

    def why_not_here(self) -> str | None:
        """A processor that lacks instructions that the code was compiled for, or no GPU like the one it is for."""
        reason = self._package.why_not_here()
        if reason is not None or self._package.described.device == "cpu":
            return reason
        return why_not_here(self.spec.runtime, self.spec.compute_capability, self.spec.profile)

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32; UsageError when the network does not take that shape.

        torch's number of threads is one for the whole process; it is set for this run and set back.
        """
        import torch

        described = self._package.described
        if x.dtype != np.float32 or not described.takes(x.shape):
            raise UsageError(f"torch cannot run {x.dtype} {list(x.shape)}: the network takes {described.words}")
        loaded = self._ready()
        try:
            with torch_threads(self.threads):
                if self._on_gpu is not None:
                    with without_tf32():
                        return self._on_gpu.run(x)
                result: np.ndarray = loaded.run([torch.from_numpy(np.ascontiguousarray(x))])[0].numpy()
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise UsageError(f"torch cannot run {x.dtype} {list(x.shape)}: {first}") from error
        return result

    def use_cuda_graph(self) -> None:
        """Replay the computation as a CUDA graph, captured for each new shape; UsageError on the processor."""
        if self._package.described.device == "cpu":
            super().use_cuda_graph()
        self._cuda_graph = True

    def gpu_stages_ms(self) -> tuple[float, float, float] | None:
        """Ms of the last run: copy to the GPU, computation, copy back; None on the processor, or before the first."""
        return None if self._on_gpu is None else self._on_gpu.stages_ms()

    def executed_nodes(self) -> tuple[ExecutedNode, ...]:
        """The calls of kernels in the source that the package's code was compiled from."""
        return executed_nodes(self._package.source, self._package.described.layers)

    def _ready(self) -> Any:
        if self._loaded is None:
            import torch

            self.require_here()
            path = self.folder / self.spec.artefact
            on_gpu = self._package.described.device != "cpu"
            try:
                # Unsynchronised between threads on a GPU: that takes events, which a capture does not allow.
                self._loaded = torch._C._aoti.AOTIModelPackageLoader(str(path), MODEL, on_gpu, 1, -1)
            except RuntimeError as error:
                first = str(error).strip().splitlines()[0]
                raise UsageError(f"torch cannot load {path}: {first}; rebuild the engine") from error
            if on_gpu:
                # It enqueues on torch's current stream, which a run sets.
                self._on_gpu = CudaRun(
                    lambda source, _: self._loaded.run([source])[0], graph=self._cuda_graph, cuda=TorchCuda()
                )
        return self._loaded
