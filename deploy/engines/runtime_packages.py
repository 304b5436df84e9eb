"""Importing the runtimes without their telemetry: both report home on import or use unless told not to."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from types import ModuleType

from bitwright.foundation.optional import require
from deploy.runtimes import Runtime

_MODULES = {
    Runtime.TENSORRT_RTX: ("tensorrt_rtx", "tensorrt-rtx"),
    Runtime.LITERT: ("ai_edge_litert", "edge"),
    Runtime.QONNX: ("qonnx", "fpga"),
}
"""Module and extra of the runtimes whose module or extra has another name than the runtime."""

_PACKAGES = {Runtime.LITERT: "ai-edge-litert"}
"""What pip calls the runtimes that it knows by another name."""

_INDICES = {Runtime.TENSORRT: " --extra-index-url https://pypi.nvidia.com"}
"""Where pip finds the runtimes of which the package registry has no more than a stub."""

_OPENVINO_TELEMETRY = "openvino_telemetry"


def import_runtime(runtime: Runtime) -> ModuleType:
    """The package of a runtime, or MissingPackageError. A package that somebody imported before is left as it is."""
    # qonnx runs single nodes in ONNX Runtime.
    if runtime in {Runtime.ONNXRUNTIME, Runtime.QONNX}:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if runtime is not Runtime.OPENVINO or "openvino" in sys.modules or _OPENVINO_TELEMETRY in sys.modules:
        module, extra = _MODULES.get(runtime, (runtime.value, None))
        return require(module, extra=extra)
    # OpenVINO sends an event on import unless its telemetry package is absent; it then falls back to a stub.
    sys.modules[_OPENVINO_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return require(runtime.value)
    finally:
        del sys.modules[_OPENVINO_TELEMETRY]


def runtime_version(runtime: Runtime) -> str:
    """Version of an installed runtime, with its build; MissingPackageError when it is not installed."""
    package = import_runtime(runtime)
    # qonnx states its version in its package's metadata alone.
    return version(runtime.value) if runtime is Runtime.QONNX else str(package.__version__)


def package_of(runtime: Runtime) -> str:
    """What pip calls the package of a runtime."""
    return _PACKAGES.get(runtime, runtime.value)


def pip_command(runtime: Runtime, versions: str) -> str:
    """What to type to install a runtime; `versions`: such as ==1.7.1, or nothing."""
    return f"pip install '{package_of(runtime)}{versions}'{_INDICES.get(runtime, '')}"
