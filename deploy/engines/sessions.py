"""Opening an engine's file without its stamp's schema and without an audit: all that a device needs to run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from bitwright.foundation.errors import DeviceError, MissingPackageError, UsageError
from deploy.engines.litert_session import LiteRtSession
from deploy.engines.onnxruntime_session import OnnxRuntimeSession
from deploy.engines.openvino_session import OpenVinoSession
from deploy.engines.runtime_packages import import_runtime, pip_command, runtime_version
from deploy.engines.tensorrt_session import TensorRtSession
from deploy.gpu_match import why_not_by_driver
from deploy.runtimes import FloatPrecision, Runtime

Shape = tuple[int, ...]


class Session(Protocol):
    """A network that a runtime has loaded."""

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32 and return the output, float32."""
        ...


def _onnxruntime(path: Path, threads: int, float_precision: FloatPrecision, shape: Shape | None) -> Session:
    # ONNX Runtime takes no notice of the shape that a network is mostly run on.
    del shape
    return OnnxRuntimeSession(path, threads, float_precision)


class TellsExecuted(Protocol):
    """A session of a runtime of `EXECUTED_SUFFIX`: it tells what that has made of the network on this very machine."""

    def write_executed(self, path: Path) -> None:
        """Write the executed graph to a file, in the runtime's own form."""
        ...


EXECUTED_SUFFIX = {Runtime.ONNXRUNTIME: ".onnx", Runtime.LITERT: ".json"}
"""The runtimes whose sessions have `write_executed`, and the suffix of the file that it writes."""

SESSIONS: dict[Runtime, Callable[[Path, int, FloatPrecision, Shape | None], Session]] = {
    Runtime.ONNXRUNTIME: _onnxruntime,
    Runtime.OPENVINO: OpenVinoSession,
    Runtime.LITERT: LiteRtSession.read,
}
"""What opens the engines that run on a processor."""


class TellsStages(Protocol):
    """A session of a runtime that compiles for GPUs: it tells the stages of a run."""

    def stages_ms(self) -> tuple[float, float, float]:
        """Ms of the last run: the copy to the GPU, the computation, and the copy back."""
        ...


@dataclass(frozen=True)
class OnGpu:
    """The GPU that an engine was compiled for; `graph`: its computation is replayed as a CUDA graph."""

    compute_capability: str | None
    profile: str
    graph: bool = False


def opens(runtime: Runtime) -> bool:
    """Whether `open_session` opens engines of the runtime."""
    return runtime.compiles or runtime in SESSIONS


def open_session(
    path: Path,
    *,
    runtime: Runtime,
    version: str,
    threads: int,
    float_precision: FloatPrecision,
    shape: Shape | None,
    gpu: OnGpu,
) -> Session:
    """Load the file of an engine that was built with `version` of `runtime`; `gpu` counts where that compiles for one.

    MissingPackageError when the runtime is not installed, UsageError when another version is, because kernels and
    precisions may differ from those that were audited, DeviceError where the GPU is not the one it was compiled for.
    """
    # A build number follows the release in some versions; pip knows the release alone.
    command = pip_command(runtime, f"=={version.partition('-')[0]}")
    try:
        installed = runtime_version(runtime)
    except MissingPackageError as error:
        raise MissingPackageError(
            f"{runtime} is not installed ({error.__cause__}); install it with: {command}"
        ) from error
    if installed != version:
        raise UsageError(
            f"the engine was built and audited with {runtime} {version} and {installed} is installed; "
            f"install the same with: {command}"
        )
    return _on_gpu(path, runtime, gpu) if runtime.compiles else SESSIONS[runtime](path, threads, float_precision, shape)


def _on_gpu(path: Path, runtime: Runtime, gpu: OnGpu) -> TensorRtSession:
    reason = why_not_by_driver(gpu.compute_capability, gpu.profile)
    if reason is not None:
        raise DeviceError(f"the engine cannot run here: {reason}")
    # Kernels that are compiled here lie beside the engine, and go with it.
    cache = path.with_suffix(".runtime.cache")
    return TensorRtSession(import_runtime(runtime), path.read_bytes(), cache=cache, cuda_graph=gpu.graph)
