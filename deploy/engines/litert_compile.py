"""Making a LiteRT engine: the exported ONNX file compiled to a TFLite file, and the stamp of both."""

from __future__ import annotations

from pathlib import Path

import onnx

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import sha256_file, write_bytes
from bitwright.foundation.progress import note
from deploy.engine import EngineSpec, FloatPrecision, Runtime
from deploy.engines.litert_nodes import Executed, executed_nodes
from deploy.engines.litert_session import LiteRtSession
from deploy.engines.runtime_packages import runtime_version
from deploy.tflite import compile_file
from workloads.super_resolution.format import SRFormat

SUFFIX = ".tflite"
_USUAL = 128
"""Height and width that an engine is compiled for where none are asked for."""


def compile_engine(
    onnx_path: Path,
    folder: Path,
    *,
    profile: str,
    float_precision: FloatPrecision = FloatPrecision.FP32,
    input_shape: tuple[int, int, int, int] | None = None,
    super_resolution: SRFormat | None = None,
) -> EngineSpec:
    """Compile the file for one input shape, [N, C, H, W], and write it into `folder`.

    Inputs of other shapes are compiled for when they come. UsageError names the node that has no counterpart. Operators
    that XNNPACK does not take over are told.
    """
    version = runtime_version(Runtime.LITERT)
    shape = input_shape or usual_shape(onnx_path)
    content = compile_file(onnx_path, shape)
    session = LiteRtSession(content, 1, float_precision, name=onnx_path.name)
    nodes = executed_nodes(Executed.model_validate(session.executed()), {})
    left = [node.kernel for node in nodes if not node.kernel.startswith("XNNPACK")]
    if left:
        kinds = ", ".join(sorted({kernel.rpartition(" ")[2] for kernel in left}))
        note(f"litert: XNNPACK does not run {len(left)} operators ({kinds}); slower kernels do")
    artefact = onnx_path.with_suffix(SUFFIX).name
    write_bytes(folder / artefact, content)
    return EngineSpec(
        runtime=Runtime.LITERT,
        artefact=artefact,
        float_precision=float_precision,
        runtime_version=version,
        artefact_sha256=sha256_file(folder / artefact),
        profile=profile,
        input_shape=input_shape,
        super_resolution=super_resolution,
        source=onnx_path.name,
    )


def usual_shape(onnx_path: Path) -> tuple[int, int, int, int]:
    """One picture of the size that the file states, or 128 x 128."""
    sizes = [int(dim.dim_value) for dim in onnx.load(onnx_path).graph.input[0].type.tensor_type.shape.dim]
    if len(sizes) != 4 or sizes[1] == 0:
        raise UsageError(f"{onnx_path} does not take [N, C, H, W] with a fixed number of channels")
    return sizes[0] or 1, sizes[1], sizes[2] or _USUAL, sizes[3] or _USUAL
