"""The trade-off curve: engines from float to all-int8, each built, audited, evaluated and timed, and one picked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bitwright.foundation.errors import ConstraintError, DeviceError
from bitwright.foundation.files import atomic_path, write_text
from bitwright.foundation.progress import note
from bitwright.report import curve_chart, curve_html
from bitwright.report.tradeoff_curve import Choice, CurvePoint, Kind, TradeoffCurve
from bitwright.runs import recovery, stages
from bitwright.runs.built import files_of
from bitwright.runs.curve_choice import pick
from bitwright.runs.curve_costs import calibrations, coverage_warnings, load_table
from bitwright.runs.curve_plans import Planned, Timed, mixed_plans
from bitwright.runs.curve_points import BASELINE, Proposal, best_integers, build_point, load_quality, mixed, uniform
from bitwright.runs.curve_report import curve_of, points_of
from bitwright.runs.curve_request import CurveRequest
from bitwright.runs.curve_timing import latency_of, sessions, time_points
from bitwright.runs.folder import LAST_STAGE, RunFolder
from bitwright.runs.job import Job
from bitwright.runs.runtime_choice import runs_on_gpu
from compress.training.processes import MASKS, NOTHING, give_order
from deploy.engines.tensorrt_target import GpuTarget
from deploy.gpu import why_not_here
from hw_profiles.latency_table import LatencyTable

CURVE = "curve.json"
PICTURE = "curve.png"
PAGE = "curve.html"
CHOSEN = "chosen"
FIRST_SHARE = 0.6
"""Share of the mixed plans that is measured before the cost model is fitted again."""
SHARED_STAGES: tuple[tuple[str, Callable[[Job], None]], ...] = (
    ("float", stages.float_baseline),
    ("nearest", stages.nearest),
    ("reconstructed", stages.reconstructed),
    ("recovered", recovery.recovered),
)
"""What a curve has in common with a compression job."""


def curve(request: CurveRequest, *, resume: bool = False, overwrite: bool = False) -> TradeoffCurve:
    """Make the curve in its run folder and return it; what is on the disk already is neither built nor measured again.

    Raises ConstraintError where no point keeps the limits; the curve and the best point are written first.
    """
    torch.manual_seed(request.seed)
    with RunFolder.open(request, resume=resume, overwrite=overwrite) as run:
        give_order(NOTHING, MASKS)
        if run.stage_done("recovered"):
            give_order(NOTHING)
        job = Job.open(request.job_request(), run)
        _require_here(job)
        if not run.stage_done(SHARED_STAGES[0][0]):
            job.check_data()
        elif not sessions(job):
            stages.renew_baseline(job, f"build {BASELINE}")
        for name, stage in SHARED_STAGES:
            if not run.stage_done(name):
                stage(job)
        table, warnings = load_table(request.table)
        for warning in warnings:
            note(f"warning: {warning}")
        proposals = _measured_points(job, request, table)
        done = sessions(job)
        if table is not None and request.points:
            warnings += coverage_warnings(calibrations(job, proposals, table))
        made = curve_of(job, points_of(job, proposals, done), done, request.command(), warnings)
        choice = pick(made.points, budget_ms=request.budget_ms, max_drop=request.max_drop, unit=made.unit)
        if choice is not None:
            made = TradeoffCurve.model_validate({**made.model_dump(), "chosen": choice.model_dump()})
            _write_chosen(run.path, made.point(choice.point))
        _write(run, made)
    if choice is not None and not choice.reached:
        raise ConstraintError(f"{choice.why}; {choice.point} was written to {request.run_folder / CHOSEN}")
    return made


def _require_here(job: Job) -> None:
    """UsageError or DeviceError where the engines of a curve could be built here and not timed."""
    if job.why_foreign is not None:
        raise DeviceError(f"a curve times every engine: {job.why_foreign}; `bitwright compress` builds one for it")
    job.runtime.require_timed()
    if runs_on_gpu(job.profile, job.runtime):
        reason = why_not_here(job.runtime, GpuTarget.of(job.profile).compute_capability, job.profile.id)
        if reason is not None:
            anywhere = "; `bitwright compress` builds one without running it" if job.runtime.builds_anywhere else ""
            raise DeviceError(f"a curve times every engine: {reason}{anywhere}")


def load_curve(run: Path) -> TradeoffCurve:
    """Read a run's `curve.json`."""
    return TradeoffCurve.model_validate_json((run / CURVE).read_bytes())


def _measured_points(job: Job, request: CurveRequest, table: LatencyTable | None) -> list[Proposal]:
    """Uniform points, then mixed ones in two rounds, the second from costs fitted to what the first one measured."""
    proposals = uniform(job)
    _build_and_time(job, proposals)
    first = round(FIRST_SHARE * request.points)
    for number, count in enumerate((first, request.points - first), start=1):
        proposals += _planned(job, proposals, number, count, table)
        _build_and_time(job, proposals)
    return proposals


def _build_and_time(job: Job, proposals: Sequence[Proposal]) -> None:
    for proposal in proposals:
        if not job.run.stage_done(proposal.stage):
            build_point(job, proposal)
    time_points(job, proposals)


def _planned(
    job: Job, proposals: Sequence[Proposal], number: int, count: int, table: LatencyTable | None
) -> list[Proposal]:
    """The mixed plans of a round; once made they are in the journal, so that a resumed run has the same ones."""
    stage = f"plans {number}"
    if not job.run.stage_done(stage):
        planned = Planned()
        if count > 0:
            planned = mixed_plans(job, timed(job, proposals), calibrations(job, proposals, table), count)
        begin = sum(p.kind is Kind.MIXED for p in proposals) + 1
        source = best_integers(job)
        made = [mixed(f"mixed-{begin + i:02d}", plan, source, guess) for i, (plan, guess) in enumerate(planned.plans)]
        told = {"predicted": planned.predicted, "solving_s": planned.solving_s}
        job.run.finish_stage(stage, [], {**told, "proposals": [p.model_dump(mode="json") for p in made]})
    return [Proposal.model_validate(p) for p in job.run.values(stage)["proposals"]]


def timed(job: Job, proposals: Sequence[Proposal]) -> list[Timed]:
    """What is known of the points so far: time on the common scale, drop on the held-out samples."""
    done = sessions(job)
    reference = load_quality(job, proposals[0]).held_out
    return [Timed(p, latency_of(p, done).ms, reference - load_quality(job, p).held_out) for p in proposals]


def _write_chosen(run: Path, point: CurvePoint) -> None:
    """Copy the picked point to `chosen/`; the baseline has no network of its own beside its engine."""
    folder = run / CHOSEN
    shutil.rmtree(folder, ignore_errors=True)
    if point.kind is Kind.BASELINE:
        names = {"float.onnx": "engine/float.onnx", "engine.json": "engine/engine.json", "plan.json": "plan.json"}
    else:
        names = {name: name for name in files_of(run / Path(point.plan).parent)}
    source = run / Path(point.plan).parent
    for name, target in names.items():
        with atomic_path(folder / target) as temporary:
            shutil.copyfile(source / name, temporary)


def _write(run: RunFolder, made: TradeoffCurve) -> None:
    write_text(run.path / CURVE, made.to_json())
    curve_chart.write_png(made, run.path / PICTURE)
    write_text(run.path / PAGE, curve_html.build_html(made))
    run.finish_stage(LAST_STAGE, [CURVE, PICTURE, PAGE], {})


__all__ = ["CHOSEN", "CURVE", "PAGE", "PICTURE", "Choice", "curve", "load_curve"]
