"""Making a torch engine: the exported ONNX file compiled to an AOTInductor package, and the stamp of both."""

from __future__ import annotations

from pathlib import Path

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import sha256_file
from deploy.engine import EngineSpec, FloatPrecision, Runtime
from deploy.engines.runtime_packages import runtime_version
from deploy.gpu import compute_capability
from deploy.torch_aot.compile import compile_file
from hw_profiles import DeviceProfile
from workloads.super_resolution.format import SRFormat

SUFFIX = ".pt2"


def compile_engine(
    onnx_path: Path,
    folder: Path,
    *,
    profile: str,
    float_precision: FloatPrecision = FloatPrecision.FP32,
    input_shape: tuple[int, int, int, int] | None = None,
    super_resolution: SRFormat | None = None,
    device: DeviceProfile | None = None,
) -> EngineSpec:
    """Compile the file for this machine's processor, or for its GPU where `device` is one, and write the package.

    One package runs inputs of every size; `input_shape` is only stamped. DeviceError where this machine does not have
    the GPU of `device`.
    """
    capability = capability_of(device)
    artefact = onnx_path.with_suffix(SUFFIX).name
    compile_file(
        onnx_path,
        folder / artefact,
        compute_capability=capability,
        profile=profile,
        float_precision=float_precision,
    )
    return EngineSpec(
        runtime=Runtime.TORCH,
        artefact=artefact,
        float_precision=float_precision,
        runtime_version=runtime_version(Runtime.TORCH),
        artefact_sha256=sha256_file(folder / artefact),
        profile=profile,
        input_shape=input_shape,
        super_resolution=super_resolution,
        source=onnx_path.name,
        compute_capability=capability,
    )


def capability_of(device: DeviceProfile | None) -> str | None:
    """Compute capability of the NVIDIA GPU of a profile; None for a processor. UsageError for any other device."""
    if device is None or device.kind == "cpu":
        return None
    capability = compute_capability(device) if device.kind == "gpu" else None
    if capability is not None:
        return capability
    raise UsageError(f"torch compiles for processors and NVIDIA GPUs, and {device.id} is neither")
