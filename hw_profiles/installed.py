"""Which runtimes are installed here, read from package metadata: nothing is imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from hw_profiles.terms import RuntimeEngine

# The packages that bring a runtime, first found wins. The Edge TPU compiler is not a Python package.
PACKAGES: dict[RuntimeEngine, tuple[str, ...]] = {
    RuntimeEngine.ONNXRUNTIME: ("onnxruntime", "onnxruntime-gpu"),
    RuntimeEngine.OPENVINO: ("openvino",),
    RuntimeEngine.TENSORRT: ("tensorrt",),
    RuntimeEngine.TENSORRT_RTX: ("tensorrt-rtx",),
    RuntimeEngine.LITERT: ("ai-edge-litert",),
    RuntimeEngine.TORCH: ("torch",),
    RuntimeEngine.EXECUTORCH: ("executorch",),
    RuntimeEngine.NCNN: ("ncnn",),
    RuntimeEngine.QNN: ("onnxruntime-qnn",),
    RuntimeEngine.VELA: ("ethos-u-vela",),
    RuntimeEngine.EDGETPU: (),
    RuntimeEngine.QONNX: ("qonnx",),
}


def installed_runtimes() -> dict[str, str | None]:
    """Version of each runtime's package; None where it is not installed."""
    return {engine.value: _first_version(packages) for engine, packages in PACKAGES.items()}


def _first_version(packages: tuple[str, ...]) -> str | None:
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
