"""Built: a compressed network made into an engine and audited, with everything that tells what it is, in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from bitwright.runs.float_part import wider
from bitwright.runs.job import Job
from compress.compressed import CompressedModel
from compress.equality import prove_equal
from compress.padding import pad_channels
from compress.plan import Plan
from deploy.audit import QUANTIZED, UNKNOWN, Audit, audit, unaudited
from deploy.engine import Engine, FloatPrecision, Runtime, ShapeRange
from deploy.engines import build_engine, load_engine, read_spec
from deploy.engines.tensorrt_record import RECORD_FILE
from deploy.onnx_export import export_for
from deploy.onnx_float_fit import in_words, unfit
from hw_profiles import DType
from search.layer_sensitivity import restricted
from workloads.classification.task import Classification

MODEL = "model.safetensors"
PLAN = "plan.json"
ONNX = "model.onnx"
ENGINE = "engine"
AUDIT = "audit.json"
FILES = (PLAN, MODEL, ONNX, f"{ENGINE}/engine.json", AUDIT)
"""What `build_audited` writes for every runtime, relative to its folder."""

_SPECIALISED = frozenset({Runtime.OPENVINO, Runtime.LITERT, Runtime.QONNX})
"""Runtimes that are told the input size that matters: the first two compile for it, the last is checked at it."""

LARGEST_BATCH = 64
"""Images that a compiled classifier takes at once; its height and width are fixed."""


def files_of(folder: Path) -> tuple[str, ...]:
    """What `build_audited` has written into a folder, relative to it."""
    return (*FILES, *engine_files(folder, ENGINE)[1:])


def engine_files(folder: Path, name: str) -> tuple[str, ...]:
    """The files of the engine `name` in a folder, relative to it, the stamp first."""
    spec = read_spec(folder / name)
    compiled = () if spec.source is None else (f"{name}/{spec.artefact}",)
    recorded = (f"{name}/{RECORD_FILE}",) if spec.runtime.compiles else ()
    return (f"{name}/engine.json", f"{name}/{spec.onnx}", *compiled, *recorded)


@dataclass(frozen=True)
class Built:
    """The network as it was built in the end; `padded`: layers widened with zeros, (from, to) channels."""

    model: CompressedModel
    audit: Audit
    padded: dict[str, tuple[int, int]]
    without_kernel: tuple[str, ...]


def build_audited(job: Job, model: CompressedModel, folder: Path) -> Built:
    """Write the ONNX file into `folder`, build the engine from it and audit what it executes.

    A layer that turns out to have no such kernel in the runtime is left in float, named, and the engine built again.
    Of a processor of another architecture than this one nothing turns out here: its engine is built and not audited.
    """
    model, result, widths = _engine(job, model, folder)
    wanted = set(model.plan.quantized_layers)
    missing = {m.layer for m in result.mismatches if m.planned in QUANTIZED and m.executed != UNKNOWN}
    if missing and missing < wanted:
        kernel = job.request.precision.kernel
        note(f"{job.runtime} has no {kernel} for {', '.join(sorted(missing))}: left in float")
        plan = model.plan.with_float(missing, f"the runtime has no {kernel} for it")
        model, result, widths = _engine(job, restricted(model, plan, job.balanced), folder)
    else:
        missing = set()
    for precision in wider(job.profile, job.runtime, model.plan.float_precision):
        planned = model.plan.float_precision
        if all(m.planned != planned for m in result.mismatches):
            break
        note(f"{job.runtime} does not run every float layer in {planned}: all of them are built in {precision}")
        model, result, widths = _engine(job, _in_floats(job, model, precision), folder)
    model.plan.save(folder / PLAN)
    model.save(folder / MODEL)
    write_text(folder / AUDIT, result.model_dump_json(indent=1) + "\n")
    return Built(model, result, widths, tuple(sorted(missing)))


def _in_floats(job: Job, model: CompressedModel, precision: FloatPrecision) -> CompressedModel:
    """The same network, planned with another precision of its float part."""
    return restricted(model, model.plan.model_copy(update={"float_precision": precision.value}), job.balanced)


def _engine(
    job: Job, model: CompressedModel, folder: Path
) -> tuple[CompressedModel, Audit, dict[str, tuple[int, int]]]:
    """Export and build; returns the network, the audit and the layers that were widened with zeros.

    Where the planned float precision cannot hold what is in the file, the network returned is planned with the next
    that can.
    """
    widths = _exported(job, model, folder)
    checked = job.runtime.compiles or model.plan.float_precision == FloatPrecision.FP16
    for precision in wider(job.profile, job.runtime, model.plan.float_precision) if checked else ():
        planned = FloatPrecision(model.plan.float_precision)
        found = unfit(onnx.load(folder / ONNX), planned)
        if not found:
            break
        note(f"{planned} cannot hold the float part, which is built in {precision}: {in_words(found)}")
        model = _in_floats(job, model, precision)
        widths = _exported(job, model, folder)
    build_engine(
        folder / ONNX,
        folder / ENGINE,
        runtime=job.runtime,
        profile=job.profile.id,
        float_precision=FloatPrecision(model.plan.float_precision),
        input_shape=(1, job.example.shape[1], *job.input_size) if job.runtime in _SPECIALISED else None,
        super_resolution=job.picture_format,
        device=job.profile,
        shapes=shapes_of(job) if job.runtime.compiles else None,
    )
    return model, audited(job, load_engine(folder / ENGINE, 1, device=job.profile), folder / ONNX, model.plan), widths


def audited(job: Job, engine: Engine, onnx_path: Path, plan: Plan) -> Audit:
    """What the engine of a plan executes; not found out where kernels of this machine are not those of the device."""
    if job.why_foreign is not None:
        return unaudited(job.runtime, engine.spec.runtime_version, plan, job.why_foreign)
    return audit(engine, onnx_path, plan)


def _exported(job: Job, model: CompressedModel, folder: Path) -> dict[str, tuple[int, int]]:
    """Write the ONNX file; returns the layers that were widened with zeros."""
    multiple = job.profile.channel_multiple("int8") if job.runtime is Runtime.ONNXRUNTIME else None
    padded, widths = pad_channels(model, multiple) if multiple else (model, {})
    if widths:
        prove_equal(model.simulate(), padded.simulate(), job.example, tolerance=5e-2)
        note(f"{len(widths)} layers were widened with zeros to a multiple of {multiple} channels")
    entry = job.profile.runtime(job.runtime.value)
    integer_bias = entry is None or entry.bias is DType.INT32
    export_for(job.runtime, padded, job.example, folder / ONNX, quantize_bias=integer_bias)
    return widths


def shapes_of(job: Job) -> ShapeRange:
    """What a compiled engine takes: pictures of any usual size, or a classifier's own size in batches."""
    usual = (1, job.example.shape[1], *job.input_size)
    if isinstance(job.loaded.workload, Classification):
        return ShapeRange(smallest=usual, usual=usual, largest=(LARGEST_BATCH, *usual[1:]))
    return ShapeRange.around(usual, job.loaded.workload.min_input_side)
