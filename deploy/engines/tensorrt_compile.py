"""Compiling an exported ONNX file to a TensorRT engine for a device profile, with all that its stamp holds."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import onnx

from bitwright.foundation.caches import cache_folder
from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import sha256_file, write_bytes, write_text
from bitwright.foundation.progress import note
from compress.plan import Plan
from deploy.engine import EngineSpec, FloatPrecision, Runtime, ShapeRange
from deploy.engines.runtime_packages import import_runtime, runtime_version
from deploy.engines.tensorrt_builder import compile_network
from deploy.engines.tensorrt_lint import lint, require_accepted
from deploy.engines.tensorrt_record import (
    RECORD_FILE,
    BuildRecord,
    layers_in_json,
    layers_in_log,
    sparse_tactics_in_log,
)
from deploy.engines.tensorrt_target import GpuTarget
from deploy.gpu import require_fp8
from deploy.onnx_float import convert
from deploy.onnx_formats import verify_formats
from deploy.onnx_plan import plan_of
from hw_profiles import DeviceProfile
from workloads.super_resolution.format import SRFormat

ENGINE_SUFFIX = ".engine"
_USUAL = (128, 128)


def compile_engine(
    onnx_path: Path,
    folder: Path,
    *,
    runtime: Runtime,
    device: DeviceProfile | None,
    float_precision: FloatPrecision = FloatPrecision.FP32,
    shapes: ShapeRange | None = None,
    super_resolution: SRFormat | None = None,
) -> EngineSpec:
    """Lint and compile the file, write engine and record into `folder`; returns the stamp.

    An engine is strongly typed: what its file has in fp32 runs in fp32. For another `float_precision` the float part of
    the file is converted first, and it is `<name>.<precision>.onnx` that lies beside the engine and was compiled.

    The plan in the file's metadata tells which layers must run on integers. With a layer in it that fits 2:4, on a
    device that has such kernels, the builder may choose sparse ones. UsageError for what the builder does not take.
    """
    if device is None:
        raise UsageError(f"{runtime} compiles for one GPU architecture; give the device profile to build for")
    target = GpuTarget.of(device)
    api = import_runtime(runtime)
    target.require(api, runtime)
    artefact = onnx_path.with_suffix(ENGINE_SUFFIX).name
    file = onnx.load(onnx_path)
    if float_precision is not FloatPrecision.FP32:
        file = convert(file, float_precision)
    plan = plan_of(file)
    if has_fp8(file):
        require_fp8(target.compute_capability, target.profile)
    look_ahead(file, plan, runtime, onnx_path.name)
    patterns = () if plan is None else plan.sparse_layers.values()
    sparse = target.sparse and any(pattern.fits_two_of_four() for pattern in patterns)
    shapes = ShapeRange.around((1, _channels(file), *_USUAL)) if shapes is None else shapes
    cache = timing_cache(runtime, target)
    if float_precision is not FloatPrecision.FP32:
        onnx_path = folder / f"{onnx_path.stem}.{float_precision}.onnx"
        write_bytes(onnx_path, file.SerializeToString())
        if plan is not None:
            verify_formats(onnx_path, plan)
    compiled = compile_network(api, runtime, onnx_path, target, shapes, sparse_weights=sparse, cache=cache)
    write_bytes(folder / artefact, compiled.engine)
    digest = sha256_file(folder / artefact)
    record = BuildRecord(
        engine_sha256=digest,
        sparse_weights=sparse,
        sparse=sparse_tactics_in_log(compiled.log),
        layers=layers_in_log(compiled.log) or layers_in_json(_inspected(api, compiled.engine)),
    )
    write_text(folder / RECORD_FILE, record.model_dump_json(indent=1) + "\n")
    return EngineSpec(
        runtime=runtime,
        artefact=artefact,
        float_precision=float_precision,
        runtime_version=runtime_version(runtime),
        artefact_sha256=digest,
        profile=target.profile,
        super_resolution=super_resolution,
        source=onnx_path.name,
        shapes=shapes,
        compute_capability=target.compute_capability,
        profile_hash=target.profile_hash,
        record_sha256=sha256_file(folder / RECORD_FILE),
    )


def timing_cache(runtime: Runtime, target: GpuTarget) -> Path:
    """Where the times of kernels are kept that all builds with this version of the runtime for such a GPU share."""
    name = f"{runtime}-{runtime_version(runtime)}-{target.member.lower()}.timing.cache"
    return cache_folder() / "tensorrt" / name


def look_ahead(file: onnx.ModelProto, plan: Plan | None, runtime: Runtime, name: str) -> None:
    """Lint the file before it is built: UsageError for what would be refused, a note for what will run in float."""
    findings = lint(file, runtime)
    require_accepted(findings, runtime, name)
    wanted = None if plan is None else set(plan.quantized_layers)
    for finding in findings:
        if wanted is None or finding.layer in wanted:
            note(f"{runtime}: {finding.text}")


def has_fp8(file: onnx.ModelProto) -> bool:
    """Whether a file stores anything as E4M3."""
    return any(tensor.data_type == onnx.TensorProto.FLOAT8E4M3FN for tensor in file.graph.initializer)


def _channels(file: onnx.ModelProto) -> int:
    return int(file.graph.input[0].type.tensor_type.shape.dim[1].dim_value)


def _inspected(api: ModuleType, engine: bytes) -> str:
    """What an engine's inspector tells; needs the GPU that the engine is for."""
    loaded = api.Runtime(api.Logger(api.Logger.ERROR)).deserialize_cuda_engine(engine)
    if loaded is None:
        return "{}"
    return str(loaded.create_engine_inspector().get_engine_information(api.LayerInformationFormat.JSON))
