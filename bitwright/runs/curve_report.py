"""Assembling a curve from the points and the timing sessions of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from bitwright.foundation.version import VERSION
from bitwright.report.schema import Device, ModelInfo
from bitwright.report.tradeoff_curve import (
    CurvePoint,
    Front,
    Kind,
    PointLayer,
    PointQuality,
    TradeoffCurve,
    non_dominated,
)
from bitwright.runs.built import AUDIT, PLAN
from bitwright.runs.curve_points import BASELINE, Proposal, load_quality, size_bytes
from bitwright.runs.curve_timing import Session, latency_of
from bitwright.runs.job import Job
from bitwright.runs.reporting import dataset_of
from compress.layer_table import LayerTable
from compress.plan import Plan
from deploy.audit import Audit
from deploy.engines import read_spec
from deploy.verify import TOLERANCES, within

_NO_FRONT = Front(latency=False, bitops=False, size=False)


def points_of(job: Job, proposals: Sequence[Proposal], done: Sequence[Session]) -> tuple[CurvePoint, ...]:
    """Every proposal as a point with its place on the fronts, the baseline first; all were built and timed."""
    baseline = load_quality(job, proposals[0])
    original = LayerTable.from_graph(job.original, job.loaded.workload.example_input(*job.input_size))
    drafts = []
    for proposal in proposals:
        table = original if proposal.kind is Kind.BASELINE else job.table
        plan = Plan.load(job.run.path / proposal.folder / PLAN)
        audited = Audit.model_validate_json((job.run.path / proposal.folder / AUDIT).read_bytes())
        record = load_quality(job, proposal)
        quality = PointQuality(
            engine=record.engine.mean,
            torch_gap=record.verify.gap,
            compared=len(record.verify.engine.per_sample),
            drop=baseline.engine.mean - record.engine.mean,
            held_out=record.held_out,
            held_out_drop=baseline.held_out - record.held_out,
            extra=record.engine.extra,
        )
        drafts.append(
            CurvePoint(
                name=proposal.name,
                kind=proposal.kind,
                label=proposal.label,
                runtime=audited.runtime,
                float_precision=plan.float_precision,
                plan=f"{proposal.folder}/{PLAN}",
                engine=proposal.engine,
                layers=_layers(table, audited),
                planned=audited.planned,
                executed=audited.executed,
                audit_passed=not audited.mismatches,
                quality=quality,
                latency=latency_of(proposal, done),
                size_bytes=size_bytes(job, proposal),
                bitops=round(table.bitops(plan)),
                prediction=proposal.prediction,
                front=_NO_FRONT,
            )
        )
    return _with_fronts(drafts)


def curve_of(
    job: Job, points: Sequence[CurvePoint], done: Sequence[Session], command: Sequence[str], warnings: Sequence[str]
) -> TradeoffCurve:
    """The curve of a run, before a point is picked."""
    first = done[0].result.measurement(BASELINE)
    environment = done[0].result.environment
    spec = read_spec(job.run.path / points[-1].engine)
    return TradeoffCurve(
        bitwright_version=VERSION,
        created=datetime.now(UTC),
        model=ModelInfo(
            architecture=job.loaded.architecture,
            path=str(job.request.checkpoint),
            sha256=job.loaded.sha256,
            parameters=job.loaded.parameters,
        ),
        device=Device(id=job.profile.id, name=job.profile.name, hash=job.profile.hash()),
        runtime=spec.runtime.value,
        runtime_version=spec.runtime_version,
        metric=job.loaded.workload.metric,
        unit=job.loaded.workload.unit,
        dataset=dataset_of(job),
        held_out=f"{len(job.held_out)} held-out samples of {job.request.data.name}",
        input_shape=first.input_shape,
        threads=first.threads,
        baseline=BASELINE,
        points=tuple(points),
        warnings=(*warnings, *_warnings(job, points, done)),
        environment=environment.model_dump(mode="json"),
        fingerprint=environment.fingerprint,
        timings_s=job.run.timings(),
        command=tuple(command),
    )


def _layers(table: LayerTable, audited: Audit) -> tuple[PointLayer, ...]:
    found = {layer.layer: layer for layer in audited.layers}
    return tuple(
        PointLayer(
            name=row.name,
            op=row.op.value,
            macs=row.macs,
            planned=found[row.name].planned,
            executed=found[row.name].executed,
            kernel=found[row.name].kernel,
        )
        for row in table.rows
    )


def _with_fronts(points: Sequence[CurvePoint]) -> tuple[CurvePoint, ...]:
    quality = [point.quality.engine for point in points]
    latency = non_dominated([point.latency.ms for point in points], quality)
    bitops = non_dominated([point.bitops for point in points], quality)
    size = non_dominated([point.size_bytes for point in points], quality)
    return tuple(
        point.model_copy(update={"front": Front(latency=latency[i], bitops=bitops[i], size=size[i])})
        for i, point in enumerate(points)
    )


def _warnings(job: Job, points: Sequence[CurvePoint], done: Sequence[Session]) -> list[str]:
    found = list(job.warnings)
    for session in done:
        reasons = sorted({noise.value for m in session.result.measurements for noise in m.noise})
        found += [f"{session.file}: {reason}" for reason in reasons]
        shaky = [m.name for m in session.result.measurements if not m.steady]
        found += [f"{session.file}: not steady after warm-up: {', '.join(shaky)}"] if shaky else []
    prints = {session.result.environment.fingerprint for session in done}
    if len(prints) > 1:
        found.append("the sessions were measured on different machines or software; compare the ratios only")
    for point in points:
        allowed = TOLERANCES[job.loaded.workload.unit] if job.request.tolerance is None else job.request.tolerance
        if not within(point.quality.torch_gap, allowed):
            gap = f"{point.quality.torch_gap:+.3f} {job.loaded.workload.unit}"
            found.append(f"{point.name}: engine and torch differ by {gap}, more than the tolerance of {allowed:g}")
        if not point.audit_passed:
            wrong = [layer.name for layer in point.layers if layer.planned != layer.executed]
            found.append(f"{point.name}: {len(wrong)} layers did not execute as planned: {', '.join(wrong[:4])}")
    if job.request.eval_data is None:
        found.append("quality was measured on held-out samples of --data; give --eval for an independent set")
    return found
