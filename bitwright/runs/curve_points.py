"""Points of a curve before they are timed: plans made into engines, audited and evaluated, each in its own folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from bitwright.report.tradeoff_curve import Kind, Prediction
from bitwright.runs.built import AUDIT, ENGINE, ONNX, PLAN, build_audited, files_of
from bitwright.runs.float_part import agreement
from bitwright.runs.job import Job
from bitwright.runs.runtime_choice import RUNTIME_NAMES, baseline_runtime
from bitwright.runs.stages import FLOAT, NEAREST
from compress.compressed import CompressedModel
from compress.graph import clone, layer_nodes
from compress.plan import LayerPlan, Placement, Plan
from deploy.audit import audit
from deploy.engine import FloatPrecision, Runtime
from deploy.engines import load_engine
from deploy.verify import VerifyReport, compare, engine_predict
from search.sensitivity.precision import Alternatives
from workloads.workload import Quality

POINTS = "points"
QUALITY = "quality.json"
BASELINE = "float-onnxruntime"
FP32 = FloatPrecision.FP32.value
COMPARED = 4
"""Samples on which each engine is compared with torch."""


class Proposal(BaseModel):
    """A plan that is to become a point. `source`: the integers it starts from, relative to the run folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    label: str
    plan: Plan
    source: str | None = Field(description="null: nothing is quantised")
    prediction: Prediction = Prediction()

    @property
    def folder(self) -> str:
        """Folder of the point, relative to the run folder; the baseline's engine is the one that jobs make."""
        return FLOAT if self.kind is Kind.BASELINE else f"{POINTS}/{self.name}"

    @property
    def engine(self) -> str:
        """Folder of its engine.json, relative to the run folder."""
        return FLOAT if self.kind is Kind.BASELINE else f"{self.folder}/{ENGINE}"

    @property
    def stage(self) -> str:
        """Its entry in the journal."""
        return f"build {self.name}"


class QualityRecord(BaseModel):
    """Quality of a point's engine, on the samples of the report and on the held-out ones.

    `verify` compares engine and torch on the first samples only: a curve has many points, and torch is slow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Quality
    held_out: float
    verify: VerifyReport


def uniform(job: Job) -> list[Proposal]:
    """The points that need no search: float in each precision that the runtime has, and all layers on integers."""
    plan = job.first_plan()
    reconstructed, source = str(job.run.values("reconstructed")["model"]), best_integers(job)
    baseline = baseline_runtime(job.profile, job.runtime)
    label = f"float, {RUNTIME_NAMES.get(baseline, baseline.value)}"
    found = [Proposal(name=BASELINE, kind=Kind.BASELINE, label=label, plan=_baseline(job, baseline), source=None)]
    if job.runtime is not Runtime.ONNXRUNTIME:
        # The baseline is the network as it was given, and a float point is folded, so that both are worth measuring.
        for precision in dict.fromkeys((FP32, plan.float_precision)):
            floats = _all_float(plan, precision)
            found.append(
                Proposal(name=f"float-{precision}", kind=Kind.FLOAT, label=precision, plan=floats, source=None)
            )
    found.append(_integer("int8-nearest", "int8, nearest", plan, NEAREST))
    if reconstructed != NEAREST:
        found.append(_integer("int8", "int8", plan, reconstructed))
    if source != reconstructed:
        trained = _integer("int8-recovered", "int8, trained", plan, source)
        found.append(trained.model_copy(update={"kind": Kind.RECOVERED}))
    if plan.float_precision != FP32:
        found.append(
            _integer("int8-fp32", "int8, rest fp32", plan.model_copy(update={"float_precision": FP32}), source)
        )
    return found


def mixed(name: str, plan: Plan, source: str, prediction: Prediction) -> Proposal:
    """A proposal that keeps some layers in float."""
    kept = len(plan.layers) - len(plan.quantized_layers)
    label = f"{len(plan.quantized_layers)} int8 + {kept} {plan.float_precision}"
    return Proposal(name=name, kind=Kind.MIXED, label=label, plan=plan, source=source, prediction=prediction)


def build_point(job: Job, proposal: Proposal) -> None:
    """Build, audit and evaluate a point, and record it in the journal."""
    note(f"{proposal.name}: {proposal.label}")
    folder = job.run.path / proposal.folder
    workload, few, tolerance = job.loaded.workload, job.eval_samples[:COMPARED], job.request.tolerance
    files: tuple[str, ...]
    if proposal.kind is Kind.BASELINE:
        _audit_baseline(job, proposal.plan)
        engine, files = load_engine(job.run.path / proposal.engine, job.cores), (PLAN, AUDIT, QUALITY)
        verified = compare(job.original, engine, few, workload, tolerance)
    else:
        built = build_audited(job, network(job, proposal), folder)
        engine, files = load_engine(job.run.path / proposal.engine, job.cores), (*files_of(folder), QUALITY)
        verified = agreement(built.model, engine, few, workload, tolerance)
    predict = engine_predict(engine)
    quality = workload.evaluate(predict, job.eval_samples)
    alone = job.request.eval_data is None
    held_out = quality.mean if alone else workload.evaluate(predict, job.held_out).mean
    record = QualityRecord(engine=quality, held_out=held_out, verify=verified)
    write_text(folder / QUALITY, record.model_dump_json(indent=1) + "\n")
    told = {"proposal": proposal.model_dump(mode="json")}
    job.run.finish_stage(proposal.stage, [Path(proposal.folder, name) for name in files], told)


def network(job: Job, proposal: Proposal) -> CompressedModel:
    """The network of a proposal in torch, before it is built; layers in float have the float network's own values."""
    if proposal.source is None:
        return CompressedModel(clone(job.graph), proposal.plan)
    return alternatives(job, proposal.source).realise(proposal.plan)


def alternatives(job: Job, source: str | None = None) -> Alternatives:
    """The network with each layer on integers or in float; `source`: where the integers come from, or the best."""
    start = source or best_integers(job)
    model = CompressedModel.load(job.run.path / start, job.graph)
    return Alternatives.of(model, job.balanced)


def best_integers(job: Job) -> str:
    """The file of the best all-integer network so far, relative to the run folder."""
    return str(job.run.values("recovered")["model"])


def load_quality(job: Job, proposal: Proposal) -> QualityRecord:
    """Read a point's `quality.json`."""
    return QualityRecord.model_validate_json((job.run.path / proposal.folder / QUALITY).read_bytes())


def size_bytes(job: Job, proposal: Proposal) -> int:
    """Bytes of the point's model file."""
    name = "float.onnx" if proposal.kind is Kind.BASELINE else ONNX
    return (job.run.path / proposal.folder / name).stat().st_size


def _integer(name: str, label: str, plan: Plan, source: str) -> Proposal:
    return Proposal(name=name, kind=Kind.INTEGER, label=label, plan=plan, source=source)


def _all_float(plan: Plan, precision: str) -> Plan:
    floats = plan.with_float(set(plan.layers), "a float point of the curve")
    return floats.model_copy(update={"float_precision": precision})


def _baseline(job: Job, runtime: Runtime) -> Plan:
    """The plan of the network as it was given, whose layers may go by other names than after folding."""
    return Plan(
        architecture=job.loaded.architecture,
        device=job.profile.id,
        runtime=runtime.value,
        float_precision=FP32,
        placement=Placement.INPUTS,
        layers={name: LayerPlan(reason="the baseline") for name, _ in layer_nodes(job.original)},
    )


def _audit_baseline(job: Job, plan: Plan) -> None:
    folder = job.run.path / FLOAT
    plan.save(folder / PLAN)
    result = audit(load_engine(folder, 1), job.float_onnx, plan)
    write_text(folder / AUDIT, result.model_dump_json(indent=1) + "\n")
