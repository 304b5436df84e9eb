"""Assembling `report.json` and `report.html` from what the stages left in a run folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from bitwright.foundation.files import write_text
from bitwright.foundation.version import VERSION
from bitwright.report import write_html
from bitwright.report.measured import GpuStages, Latency, LatencyStats, Speedup
from bitwright.report.schema import (
    AuditedLayer,
    AuditResult,
    BitOpsTotal,
    Dataset,
    Device,
    Layer,
    Limits,
    Mismatch,
    ModelInfo,
    Needs,
    Picture,
    Quality,
    Report,
    RuntimeInfo,
    Score,
    Size,
)
from bitwright.runs.built import ENGINE, PLAN
from bitwright.runs.inputs import folder_hash
from bitwright.runs.job import Job
from bitwright.runs.narrowing import narrowed_section
from bitwright.runs.plan_steps import plan_steps
from bitwright.runs.proof import BASELINE_NAME, ENGINE_NAME, load_latency, load_quality, why_not_run
from bitwright.runs.report_warnings import warnings_of
from bitwright.runs.runtime_choice import RUNTIME_NAMES
from bitwright.runs.sparsity import sparsity_section
from bitwright.runs.stages import FLOAT
from compress.layer_table import LayerTable
from compress.plan import Plan
from deploy.audit import Audit, LayerAudit
from deploy.engines import read_spec
from deploy.engines.sessions import opens
from deploy.environment import Environment
from deploy.footprint import footprint
from deploy.latency import ComparisonResult
from deploy.latency.gpu_times import GpuSummary
from hw_profiles import DeviceProfile, DType, estimate_ms
from workloads.classification.task import Classification
from workloads.workload import Quality as MeasuredQuality

REPORT = "report.json"


def report(job: Job) -> Report:
    """Write `report.json` and `report.html` and return the report."""
    run = job.run.path
    plan = Plan.load(run / PLAN)
    audited = Audit.model_validate_json((run / "audit.json").read_bytes())
    spec = read_spec(run / ENGINE)
    selected = job.run.values("select")
    why_not = why_not_run(job)
    untimed = why_not or job.why_not_timed
    timed = None if untimed else load_latency(run)
    quality = None if why_not else _quality(job)
    limit = job.request.max_drop
    floats = Plan.model_validate({**plan.model_dump(), "layers": {name: {} for name in plan.layers},
                                  "float_precision": "fp32"})  # fmt: skip
    planned_ops, float_ops = round(job.table.bitops(plan)), round(job.table.bitops(floats))
    result = Report(
        bitwright_version=VERSION,
        created=datetime.now(UTC),
        model=ModelInfo(
            architecture=job.loaded.architecture,
            path=str(job.request.checkpoint),
            sha256=job.loaded.sha256,
            parameters=job.loaded.parameters,
        ),
        device=Device(id=job.profile.id, name=job.profile.name, hash=job.profile.hash()),
        runtime=RuntimeInfo(
            name=spec.runtime.value,
            version=spec.runtime_version,
            float_precision=plan.float_precision,
            threads=job.request.threads,
        ),
        quality=quality,
        latency=None if timed is None else latency_section(timed),
        audit=audit_section(audited),
        layers=layer_rows(job.table, plan, audited, selected["sensitivity"], job.profile, job.request.threads),
        size=Size(
            bytes=(run / ENGINE / spec.artefact).stat().st_size, float_bytes=(run / FLOAT / "float.onnx").stat().st_size
        ),
        sparsity=sparsity_section(job),
        narrowed=narrowed_section(job),
        needs=Needs.model_validate(footprint(run / ENGINE).model_dump()),
        bitops=BitOpsTotal(planned=planned_ops, float=float_ops, ratio=float_ops / planned_ops),
        limits=Limits(max_drop_db=limit, reached=_reached(limit, quality)),
        pictures=() if why_not else tuple(Picture(**picture) for picture in load_quality(run).pictures),
        plan_search=plan_steps(job, plan),
        timings_s=job.run.timings(),
        warnings=tuple(warnings_of(job, timed)),
        environment=(Environment.record() if timed is None else timed.environment).model_dump(mode="json"),
        command=tuple(job.request.command()),
        next_command=_next_command(job, untimed),
    )
    write_text(run / REPORT, result.to_json())
    write_html(result, run)
    job.run.finish_stage("report", [REPORT, "report.html"], {})
    return result


def _next_command(job: Job, untimed: str | None) -> str:
    run = job.run.path
    absent = job.why_foreign or why_not_run(job)
    if absent and opens(job.runtime) and not job.runtime.why_not_timed:
        return job.measure_there
    return f"bitwright verify {run}" if untimed else f"bitwright measure {run} --threads 2"


def _reached(limit: float | None, quality: Quality | None) -> bool | None:
    """Whether the limit is kept on the engine; None where the engine was not run."""
    if limit is None:
        return True
    return None if quality is None else quality.drop <= limit


def _quality(job: Job) -> Quality:
    record = load_quality(job.run.path)
    torch_side, engine = record.verify.torch, record.verify.engine
    held = f"{len(job.held_out)} held-out samples of {job.request.data.name}"
    return Quality(
        metric=engine.metric,
        unit=engine.unit,
        float=_score(record.float_quality),
        torch=_score(torch_side),
        engine=_score(engine),
        drop=record.float_quality.mean - engine.mean,
        torch_engine_gap=abs(record.verify.gap),
        dataset=dataset_of(job),
        decided_on=held,
    )


def dataset_of(job: Job) -> Dataset:
    """The images that quality is reported on."""
    folder = job.request.eval_data or job.request.data
    return Dataset(
        folder=folder.name, n=_images(job), data_hash=folder_hash(folder), held_out=job.request.eval_data is None
    )


def _images(job: Job) -> int:
    """How many images quality was measured on; a classifier's samples are batches of them."""
    if isinstance(job.loaded.workload, Classification):
        return sum(len(sample.target) for sample in job.eval_samples)
    return len(job.eval_samples)


def _score(quality: MeasuredQuality) -> Score:
    return Score(mean=quality.mean, per_image=quality.per_sample, extra=quality.extra)


def latency_section(timed: ComparisonResult) -> Latency:
    """Both distributions and their paired ratio, from one interleaved session."""
    speedup = timed.speedup(ENGINE_NAME, BASELINE_NAME)
    engine, baseline = timed.measurement(ENGINE_NAME), timed.measurement(BASELINE_NAME).spec
    return Latency(
        engine=_stats(timed, ENGINE_NAME),
        float=_stats(timed, BASELINE_NAME),
        speedup=Speedup(ratio=speedup.ratio, low=speedup.low, high=speedup.high, verdict=speedup.verdict.value),
        input_shape=engine.input_shape,
        threads=engine.threads,
        noisy=any(m.noisy for m in timed.measurements),
        baseline=f"{RUNTIME_NAMES.get(baseline.runtime, baseline.runtime.value)} {baseline.float_precision}",
    )


def _stats(timed: ComparisonResult, name: str) -> LatencyStats:
    measurement = timed.measurement(name)
    summary = measurement.to_summary()
    p90 = next((p for p in summary.percentiles if p.percent == 90), None)
    return LatencyStats(
        median_ms=summary.median_ms,
        median_low_ms=summary.median_low_ms,
        median_high_ms=summary.median_high_ms,
        p90_ms=summary.p90_ms,
        p90_low_ms=p90.low_ms if p90 else None,
        p90_high_ms=p90.high_ms if p90 else None,
        n=summary.n,
        iqr_ms=summary.iqr_ms,
        cv=summary.cv or 0.0,
        samples_ms=tuple(measurement.samples_ms),
        peak_rss_bytes=summary.peak_rss_bytes,
        load_ms=summary.load_ms,
        first_ms=summary.first_ms,
        gpu=None if summary.gpu is None else _stages(summary.gpu),
    )


def _stages(gpu: GpuSummary) -> GpuStages:
    return GpuStages(
        to_device_ms=gpu.to_device_ms, compute_ms=gpu.compute_ms, to_host_ms=gpu.to_host_ms, cuda_graph=gpu.graph
    )


def audit_section(audited: Audit) -> AuditResult:
    """The audit in the report's form."""
    layers = tuple(
        AuditedLayer(layer=a.layer, planned=a.planned, executed=_executed(audited, a), kernel=a.kernel or None)
        for a in audited.layers
    )
    mismatches = tuple(
        Mismatch(layer=a.layer, planned=a.planned, executed=a.executed, kernel=a.kernel or None, reason=a.reason)
        for a in audited.mismatches
    )
    return AuditResult(planned=audited.planned, executed=audited.executed, mismatches=mismatches, layers=layers)


def _executed(audited: Audit, layer: LayerAudit) -> str | None:
    return None if audited.unknown_because else layer.executed


def layer_rows(
    table: LayerTable,
    plan: Plan,
    audited: Audit,
    sensitivity: dict[str, float],
    profile: DeviceProfile,
    threads: int,
) -> tuple[Layer, ...]:
    """One row per layer call: shapes, bits, planned and executed precision, sensitivity, the profile's estimate."""
    found = {layer.layer: layer for layer in audited.layers}
    ops = table.layer_bitops(plan)
    rows = []
    for row in table.rows:
        decision, layer = plan.layers[row.name], found[row.name]
        float_bits = DType(plan.float_precision).bits
        weight_bits = decision.weight.bits if decision.weight else float_bits
        act_bits = decision.activation.bits if decision.activation else float_bits
        dtype = _dtype(layer.planned)
        estimate = dtype and estimate_ms(row.macs, row.activation_bytes(act_bits), dtype, profile, threads)
        rows.append(
            Layer(
                name=row.name,
                op=row.op.value,
                input_shape=row.input_shape,
                output_shape=row.output_shape,
                macs=row.macs,
                params=row.params,
                weight_bits=weight_bits,
                act_bits=act_bits,
                planned=layer.planned,
                executed=_executed(audited, layer),
                bitops=round(ops[row.name]),
                sensitivity_db=sensitivity.get(row.name),
                estimated_ms=estimate.ms if estimate else None,
                kernel=layer.kernel or None,
            )
        )
    return tuple(rows)


def _dtype(precision: str) -> DType | None:
    """The type of a precision; None where weights and activations have different ones."""
    return DType(precision) if precision in {dtype.value for dtype in DType} else None


def load_report(run: Path) -> Report:
    """Read a run's `report.json`."""
    return Report.from_json((run / REPORT).read_bytes())
