"""Building and loading engines: one table of runtimes, and a stamp that is checked before anything is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import atomic_path, sha256_file, write_bytes, write_text
from deploy.engine import Engine, EngineSpec, FloatPrecision, Runtime, ShapeRange
from deploy.engines.litert_engine import LiteRtEngine
from deploy.engines.onnxruntime_engine import OnnxRuntimeEngine
from deploy.engines.openvino_engine import OpenVinoEngine
from deploy.engines.qonnx_engine import QonnxEngine
from deploy.engines.runtime_packages import runtime_version
from deploy.engines.tensorrt_engine import TensorRtEngine
from deploy.engines.torch_engine import TorchEngine
from deploy.onnx_repair import repair
from hw_profiles import DeviceProfile
from workloads.super_resolution.format import SRFormat

ENGINES: dict[Runtime, type[Engine]] = {
    Runtime.ONNXRUNTIME: OnnxRuntimeEngine,
    Runtime.OPENVINO: OpenVinoEngine,
    Runtime.LITERT: LiteRtEngine,
    Runtime.TORCH: TorchEngine,
    Runtime.TENSORRT_RTX: TensorRtEngine,
    Runtime.TENSORRT: TensorRtEngine,
    Runtime.QONNX: QonnxEngine,
}
"""The runtimes; the module of each has the name that the value of its `Runtime` gives; both TensorRTs share one."""

SPEC_FILE = "engine.json"


def build_engine(
    onnx_path: Path,
    folder: Path,
    *,
    runtime: Runtime,
    profile: str,
    float_precision: FloatPrecision = FloatPrecision.FP32,
    input_shape: tuple[int, int, int, int] | None = None,
    super_resolution: SRFormat | None = None,
    device: DeviceProfile | None = None,
    shapes: ShapeRange | None = None,
) -> EngineSpec:
    """Make `folder` an engine of an exported ONNX file: the artefact and the `engine.json` that stamps it.

    The file is repaired where its exporter left what runtimes cannot fuse, and loaded by its runtime; what cannot be
    loaded is a UsageError. An ONNX file that already lies in `folder` is used where it is. `input_shape`,
    [N, C, H, W]: what the engine will mostly be run on. OpenVINO is faster when it compiles for one shape, most of all
    where float and integer operators alternate; LiteRT's artefact is for one shape, and others are compiled for when
    they come; ONNX Runtime takes no notice of it. `super_resolution`: stamped on
    the engine of a network that enlarges pictures, so that pictures can be given to it without its checkpoint.
    The TensorRTs compile for the architecture of `device` and the inputs in `shapes`; torch compiles for the processor
    of this machine, or for its GPU where `device` is one.
    """
    source = _repaired(onnx_path)
    if source != onnx_path.read_bytes():
        onnx_path = folder / onnx_path.name
        write_bytes(onnx_path, source)
    if runtime.compiles:
        from deploy.engines import tensorrt_compile

        spec = tensorrt_compile.compile_engine(
            onnx_path,
            folder,
            runtime=runtime,
            device=device,
            float_precision=float_precision,
            shapes=shapes,
            super_resolution=super_resolution,
        )
    elif runtime in {Runtime.LITERT, Runtime.TORCH}:
        spec = _compiled(runtime, device)(
            onnx_path,
            folder,
            profile=profile,
            float_precision=float_precision,
            input_shape=input_shape,
            super_resolution=super_resolution,
        )
    else:
        spec = EngineSpec(
            runtime=runtime,
            artefact=onnx_path.name,
            float_precision=float_precision,
            runtime_version=runtime_version(runtime),
            artefact_sha256=_sha256(onnx_path),
            profile=profile,
            input_shape=input_shape,
            super_resolution=super_resolution,
        )
        ENGINES[runtime](spec, onnx_path.parent, 1)
    # A compiler that converts the file first has written what it compiled, under another name.
    if spec.onnx == onnx_path.name and onnx_path.resolve().parent != folder.resolve():
        with atomic_path(folder / onnx_path.name) as temporary:
            shutil.copyfile(onnx_path, temporary)
    write_text(folder / SPEC_FILE, spec.model_dump_json(indent=1) + "\n")
    return spec


def _compiled(runtime: Runtime, device: DeviceProfile | None) -> Callable[..., EngineSpec]:
    """The compiler of a runtime whose artefact is not the ONNX file; imported only where it is used."""
    if runtime is Runtime.LITERT:
        from deploy.engines import litert_compile

        return litert_compile.compile_engine
    from deploy.engines import torch_compile

    return partial(torch_compile.compile_engine, device=device)


def _repaired(path: Path) -> bytes:
    """The file with the repairs that runtimes need; its own bytes where there is nothing to repair."""
    try:
        data = path.read_bytes()
        file = onnx.load_from_string(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); rebuild the engine") from error
    except DecodeError as error:
        raise UsageError(f"{path} is not an ONNX file: {error}") from error
    return bytes(file.SerializeToString()) if repair(file).changed else data


def load_engine(
    folder: Path,
    threads: int,
    *,
    input_shape: tuple[int, int, int, int] | None = None,
    device: DeviceProfile | None = None,
) -> Engine:
    """Load the engine in `folder` to run on `threads` threads.

    `input_shape`, [N, C, H, W]: what it is specialised on instead of the shape that it was built for.

    UsageError when the folder holds no engine, the artefact is not the one that was stamped, the installed runtime
    is another version than the engine was built and audited with, or a compiled engine is for another profile, or
    another state of it, than `device`.
    """
    if threads < 1:
        raise UsageError(f"an engine runs on at least 1 thread, not {threads}")
    spec = read_spec(folder)
    if _sha256(folder / spec.artefact) != spec.artefact_sha256:
        raise UsageError(
            f"{folder / spec.artefact} is not the file that {SPEC_FILE} was written for; rebuild the engine"
        )
    installed = runtime_version(spec.runtime)
    if installed != spec.runtime_version:
        raise UsageError(
            f"{folder} was built with {spec.runtime} {spec.runtime_version} and {installed} is installed; "
            "rebuild the engine, because kernels and precisions may differ"
        )
    if input_shape is not None:
        spec = spec.model_copy(update={"input_shape": input_shape})
    if device is not None and spec.profile_hash not in {None, device.hash()}:
        changed = "which has changed since" if device.id == spec.profile else f"not for {device.id}"
        raise UsageError(f"{folder} was compiled for {spec.profile}, {changed}; rebuild the engine")
    return ENGINES[spec.runtime](spec, folder, threads)


def read_spec(folder: Path) -> EngineSpec:
    """The `engine.json` of a folder; UsageError when it is absent or does not follow the schema."""
    path = folder / SPEC_FILE
    try:
        return EngineSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{folder} holds no engine: {path} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise UsageError(f"{path} is damaged: {where}: {first['msg']}; rebuild the engine") from error


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); rebuild the engine") from error
