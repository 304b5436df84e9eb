"""What a plan of this network costs on this machine: kernels timed in place under a few plans, fitted to a sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note, track
from bitwright.report.tradeoff_curve import Kind
from bitwright.runs.built import ENGINE, build_audited
from bitwright.runs.curve_points import FP32, Proposal, best_integers, network
from bitwright.runs.job import Job
from compress.plan import Plan
from deploy.engine import FloatPrecision
from deploy.engines import load_engine
from deploy.environment import Environment
from deploy.kernels import executed_kernels
from deploy.latency.statistics import median
from deploy.profiling import profile_engine, profiling_plans
from hw_profiles.additive_cost import AdditiveCost
from hw_profiles.kernel import Kernel
from hw_profiles.latency_table import LatencyTable
from hw_profiles.predictor.prediction import KernelTime, Prediction, Source
from search.sensitivity.groups import edges
from search.sensitivity.precision import assignment_of

COSTS = "costs"
PROFILE_SECONDS = 2.0


class Calibration(BaseModel):
    """A plan with the times of its kernels. `ms`: the whole network in the same process, or the sum of a table's rows.

    `covered`: share of the time that comes from a latency table. `uncovered`: layers that the table does not know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Plan
    ms: float
    kernels: tuple[KernelTime, ...]
    noisy: bool = False
    covered: float | None = None
    uncovered: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observed:
    """A plan and its latency on the scale of the curve, ms."""

    plan: Plan
    ms: float


def float_precisions(job: Job) -> tuple[str, ...]:
    """What the layers in float may compute in, the fastest first."""
    return tuple(dict.fromkeys((job.first_plan().float_precision, FP32)))


def calibrations(job: Job, proposals: Sequence[Proposal], table: LatencyTable | None) -> list[Calibration]:
    """Kernels under plans that bring out every precision and boundary; those on the disk are not timed again.

    What `table` knows is taken from there; what it does not is timed in place.
    """
    source = best_integers(job)
    wanted = _designed(job)
    found = []
    for name in track(list(wanted), "timing kernels in place"):
        stage = f"cost {name}"
        file = f"{COSTS}/{name}.json"
        if not job.run.stage_done(stage):
            write_text(
                job.run.path / file,
                _calibrated(job, name, wanted[name], source, proposals, table).model_dump_json() + "\n",
            )
            job.run.finish_stage(stage, [file], {})
        found.append(Calibration.model_validate_json((job.run.path / file).read_bytes()))
    return found


def fitted(
    job: Job, known: Sequence[Calibration], observed: Sequence[Observed], float_precision: str
) -> AdditiveCost | None:
    """The cost of plans with one float precision, from kernels and from measured points; None where nothing is known.

    The two clocks differ (a profiled process runs alone, a session has the caches of others), so kernels are scaled to
    the points that were timed both ways.
    """
    mine = [c for c in known if c.plan.float_precision == float_precision]
    timed = {_key(o.plan): o.ms for o in observed}
    ratios = [timed[_key(c.plan)] / c.ms for c in known if _key(c.plan) in timed]
    scale = median(ratios) if ratios else 1.0
    observations: list[tuple[dict[str, str], float | Prediction]] = []
    for c in mine:
        ms = timed.pop(_key(c.plan), c.ms * scale)
        prediction = Prediction(ms=ms, kernels=c.kernels, coverage=1.0, peak_memory_bytes=0)
        observations.append((dict(assignment_of(c.plan)), prediction))
    layers = set(observations[0][0]) if observations else set()
    for o in observed:
        same = o.plan.float_precision == float_precision and set(o.plan.layers) == layers
        if same and _key(o.plan) in timed:
            observations.append((dict(assignment_of(o.plan)), o.ms))
    if not observations:
        return None
    weights = {row.name: float(row.macs) for row in job.table.rows}
    cost = AdditiveCost.fit(observations, edges(job.graph), weights)
    note(f"cost of plans in int8 and {float_precision}: {_error(cost)}")
    return cost


def _error(cost: AdditiveCost) -> str:
    told = cost.error
    held = "" if told.held_out_median is None else f", {100 * told.held_out_median:.1f} % on plans left out"
    return f"{told.observations} plans, median error {100 * told.median:.1f} %{held}"


def _key(plan: Plan) -> tuple[str, ...]:
    return (plan.runtime, plan.float_precision, *plan.quantized_layers)


def _designed(job: Job) -> dict[str, Plan]:
    """Uniform plans and mixed ones, for each float precision."""
    plan = job.first_plan()
    integer = {name: layer for name, layer in plan.layers.items() if layer.quantized}
    found: dict[str, Plan] = {}
    for index, precision in enumerate(float_precisions(job)):
        made = profiling_plans(
            list(plan.layers),
            architecture=plan.architecture,
            device=plan.device,
            runtime=plan.runtime,
            integer=integer,
            floats=[FloatPrecision(precision)],
            placement=plan.placement,
            mixed=(0,) if index == 0 else (),
        )
        found |= {f"{precision}-{name}": one for name, one in made.items()}
    return found


def _calibrated(
    job: Job, name: str, plan: Plan, source: str | None, proposals: Sequence[Proposal], table: LatencyTable | None
) -> Calibration:
    engine = _engine(job, name, plan, source, proposals)
    shape = (1, job.example.shape[1], *job.input_size)
    known: dict[str, float] = {}
    kernels: tuple[Kernel, ...] = ()
    if table is not None:
        kernels = executed_kernels(load_engine(engine, 1), shape)
        rows = (table.lookup(k, runtime=plan.runtime, threads=job.request.threads) for k in kernels)
        known = {row.kernel.key: row.ms.p50 for row in rows if row is not None}
        if all(kernel.key in known for kernel in kernels):
            times = tuple(KernelTime(kernel=k, ms=known[k.key], source=Source.MEASURED) for k in kernels)
            return Calibration(plan=plan, ms=sum(t.ms for t in times), kernels=times, covered=1.0)
    here = profile_engine(engine, shape, threads=job.request.threads, seconds=PROFILE_SECONDS, seed=job.request.seed)
    pairs = zip(here.kernels, here.kernel_ms, strict=True)
    times = tuple(KernelTime(kernel=k, ms=known.get(k.key, ms), source=Source.MEASURED) for k, ms in pairs)
    whole = median(here.whole_ms)
    if table is None:
        return Calibration(plan=plan, ms=whole, kernels=times, noisy=here.noisy)
    strange = dict.fromkeys(layer for t in times if t.kernel.key not in known for layer in t.kernel.layers)
    total = sum(t.ms for t in times)
    share = sum(t.ms for t in times if t.kernel.key in known) / total if total else 0.0
    return Calibration(plan=plan, ms=whole, kernels=times, noisy=here.noisy, covered=share, uncovered=tuple(strange))


def _engine(job: Job, name: str, plan: Plan, source: str | None, proposals: Sequence[Proposal]) -> Path:
    """The engine of a plan: a point's where one has that plan, else built for its kernels only."""
    same = next((p for p in proposals if p.kind is not Kind.BASELINE and _key(p.plan) == _key(plan)), None)
    if same is not None:
        return job.run.path / same.engine
    folder = job.run.path / COSTS / name
    start = source if plan.quantized_layers else None
    build_audited(job, network(job, Proposal(name=name, kind=Kind.MIXED, label=name, plan=plan, source=start)), folder)
    return folder / ENGINE


def load_table(path: Path | None) -> tuple[LatencyTable | None, tuple[str, ...]]:
    """A latency table, and a warning where it was measured on another machine or with other software."""
    if path is None:
        return None, ()
    table = LatencyTable.load(path)
    warning = table.foreign_warning(Environment.record().fingerprint)
    return table, () if warning is None else (warning.removeprefix("warning: "),)


def coverage_warnings(known: Sequence[Calibration]) -> tuple[str, ...]:
    """The layers that a latency table does not cover, by name."""
    missing = dict.fromkeys(layer for calibration in known for layer in calibration.uncovered)
    if not missing:
        return ()
    return (f"the latency table lacks kernels of {', '.join(missing)}; they were timed here",)
