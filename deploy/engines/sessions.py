"""Opening an engine's file without its stamp's schema and without an audit: all that a device needs to run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from bitwright.foundation.errors import MissingPackageError, UsageError
from deploy.engines.litert_session import LiteRtSession
from deploy.engines.onnxruntime_session import OnnxRuntimeSession
from deploy.engines.openvino_session import OpenVinoSession
from deploy.engines.runtime_packages import package_of, runtime_version
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


def open_session(
    path: Path, *, runtime: Runtime, version: str, threads: int, float_precision: FloatPrecision, shape: Shape | None
) -> Session:
    """Load the file of an engine that was built with `version` of `runtime`.

    MissingPackageError when the runtime is not installed, UsageError when another version is, because kernels and
    precisions may differ from those that were audited.
    """
    # A build number follows the release in some versions; pip knows the release alone.
    command = f"pip install '{package_of(runtime)}=={version.partition('-')[0]}'"
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
    return SESSIONS[runtime](path, threads, float_precision, shape)
