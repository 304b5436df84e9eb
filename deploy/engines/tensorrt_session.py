"""TensorRtSession: a serialised TensorRT engine on the GPU, its runs enqueued through the runtime API of both packages.

TensorRT-RTX compiles kernels when an engine first runs and keeps them in a runtime cache, which is kept from process to
process; it refuses one of another GPU, driver or version by itself.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bitwright.foundation.caches import keep_cached, read_cached
from bitwright.foundation.errors import DeviceError, UsageError
from deploy.engines.cuda_driver import DriverCuda
from deploy.engines.cuda_run import Cuda, CudaRun, no_memory
from deploy.engines.tensorrt_log import logger, out_of_memory, reasons


class TensorRtSession:
    """One engine and its execution context. `cache`: where TensorRT-RTX's runtime cache lies.

    `cuda_graph`: replay the computation as a CUDA graph. UsageError where the package refuses the engine, DeviceError
    where the GPU has no memory left for it, or where there is none.
    """

    def __init__(
        self, api: ModuleType, engine: bytes, *, cache: Path, cuda_graph: bool = False, cuda: Cuda | None = None
    ) -> None:
        # The CUDA context comes first: the runtime takes the one that it finds.
        self._cuda = DriverCuda() if cuda is None else cuda
        self._cache = cache
        self._bound: tuple[Any, Any] = (None, None)
        # Objects of TensorRT do not keep alive what they were made from.
        self._log = logger(api, errors_only=True)
        self._runtime = api.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            if out_of_memory(self._log.lines):
                raise no_memory("the engine")
            raise UsageError(
                f"{api.__name__} {api.__version__} does not load the engine ({reasons(self._log.lines)}); "
                "update the driver of the GPU if that is too old, else rebuild the engine"
            )
        self._given, self._made = (self._engine.get_tensor_name(index) for index in range(2))
        self._kept: Any = None
        self._known = b""
        self._context = self._created(api)
        if self._context is None:
            raise no_memory("the engine")
        capturable = getattr(self._context, "is_stream_capturable", None)
        self._run = CudaRun(
            self._enqueue, graph=cuda_graph, capturable=capturable or (lambda handle: True), cuda=self._cuda
        )
        self._shape: tuple[int, ...] | None = None

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch, [N, C, H, W] float32; UsageError for a shape that it refuses, DeviceError where it fails."""
        result = self._run.run(x)
        if x.shape != self._shape:
            self._shape = x.shape
            self._keep()
        return result

    def stages_ms(self) -> tuple[float, float, float]:
        """See `CudaRun.stages_ms`."""
        return self._run.stages_ms()

    def _created(self, api: ModuleType) -> Any:
        """An execution context, in TensorRT-RTX with its runtime cache; None where the GPU has no memory for it."""
        if not hasattr(api, "IRuntimeCache"):
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        self._kept = config.create_runtime_cache()
        self._known = read_cached(self._cache)
        if self._known:
            self._kept.deserialize(self._known)
        config.set_runtime_cache(self._kept)
        # By default, slower kernels run until those for a shape are compiled in the background: too late for the cache
        # and for a capture, and some of the timed runs would be of either kind.
        config.dynamic_shapes_kernel_specialization_strategy = api.DynamicShapesKernelSpecializationStrategy.EAGER
        return self._engine.create_execution_context(config)

    def _keep(self) -> None:
        if self._kept is None:
            return
        content = bytes(self._kept.serialize())
        if content != self._known:
            self._known = content
            keep_cached(self._cache, content)

    def _enqueue(self, source: Any, stream: int) -> Any:
        if self._bound[0] is not source:
            shape = tuple(source.shape)
            if not self._context.set_input_shape(self._given, shape):
                raise UsageError(f"the engine refuses float32 {list(shape)}; give another size, or rebuild it for this")
            output = self._cuda.on_device(tuple(self._context.get_tensor_shape(self._made)))
            self._context.set_tensor_address(self._given, source.data_ptr())
            self._context.set_tensor_address(self._made, output.data_ptr())
            self._bound = source, output
        if not self._context.execute_async_v3(stream):
            if out_of_memory(self._log.lines):
                raise no_memory(f"an input of {list(source.shape)}")
            raise DeviceError(f"the engine failed while running {list(source.shape)}: {reasons(self._log.lines)}")
        return self._bound[1]
