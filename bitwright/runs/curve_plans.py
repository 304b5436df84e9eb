"""Where the mixed-precision plans of a curve come from: measured sensitivities, and costs fitted to measured times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.foundation.progress import note
from bitwright.report.tradeoff_curve import Kind, Prediction, non_dominated
from bitwright.runs.curve_costs import Calibration, Observed, fitted, float_precisions
from bitwright.runs.curve_points import Proposal, alternatives
from bitwright.runs.job import Job
from compress.plan import Plan
from search.sensitivity.cost import SeparableCost
from search.sensitivity.front import points_of, solve_front
from search.sensitivity.groups import partition, ties
from search.sensitivity.ladder import ladder
from search.sensitivity.measure import all_options
from search.sensitivity.measure import measure as measure_sensitivities
from search.sensitivity.precision import Alternatives, assignment_of
from search.sensitivity.quality import QualityModel
from search.sensitivity.refit import Measured, refit_quality
from search.sensitivity.sensitivities import Sensitivities

SENSITIVITY = "work/sensitivities.json"
CROPS = 16
"""Calibration crops that sensitivities are measured on."""
BUDGETS = 24
"""Latency budgets between the fastest plan and float that are solved for."""


@dataclass(frozen=True)
class Timed:
    """A point that was measured, with its time on the common scale and its drop on the held-out samples."""

    proposal: Proposal
    ms: float
    drop: float


@dataclass(frozen=True)
class Planned:
    """Plans with their predictions, fastest first; how many were predicted in all, and seconds spent in the solver."""

    plans: tuple[tuple[Plan, Prediction], ...] = ()
    predicted: int = 0
    solving_s: float = 0.0


@dataclass(frozen=True)
class _Candidate:
    plan: Plan
    ms: float
    drop: float
    source: str


def mixed_plans(job: Job, timed: Sequence[Timed], calibrated: Sequence[Calibration], count: int) -> Planned:
    """At most `count` plans that are not among `timed` and promise the most."""
    choices = alternatives(job)
    known = {_key(t.proposal.plan) for t in timed}
    found: dict[tuple[str, ...], _Candidate] = {}
    solving = 0.0
    for precision in float_precisions(job):
        family, seconds = _family(job, choices, timed, calibrated, precision)
        solving += seconds
        for candidate in family:
            found.setdefault(_key(candidate.plan), candidate)
    # The measured points count as what they are, so that a plan must promise more than what can be had already.
    fresh = [candidate for key, candidate in found.items() if key not in known]
    everything = [(c.ms, -c.drop) for c in fresh] + [(t.ms, -t.drop) for t in timed]
    flags = non_dominated([ms for ms, _ in everything], [quality for _, quality in everything])
    best = [candidate for candidate, flag in zip(fresh, flags, strict=False) if flag]
    rest = [candidate for candidate in fresh if candidate not in best]
    chosen = _spread(best, count)
    chosen += _spread(rest, count - len(chosen))
    shares = [c.covered for c in calibrated if c.covered is not None]
    coverage = sum(shares) / len(shares) if shares else None
    plans = tuple(
        (c.plan, Prediction(ms=c.ms, drop=c.drop, source=c.source, coverage=coverage))
        for c in sorted(chosen, key=lambda c: c.ms)
    )
    return Planned(plans, len(found), solving)


def sensitivities(job: Job, choices: Alternatives) -> Sensitivities:
    """Errors of each layer in each precision, from the run folder where they were measured before."""
    if not job.run.stage_done("sensitivity"):
        options = all_options(choices, float_precisions(job))
        measure_sensitivities(choices, job.calibration[:CROPS], options).to_json(job.run.path / SENSITIVITY)
        job.run.finish_stage("sensitivity", [SENSITIVITY], {})
    return Sensitivities.from_json(job.run.path / SENSITIVITY)


def _family(
    job: Job, choices: Alternatives, timed: Sequence[Timed], calibrated: Sequence[Calibration], precision: str
) -> tuple[list[_Candidate], float]:
    """The predicted front of plans whose layers are on integers or in one float precision; seconds of solving."""
    observed = [Observed(t.proposal.plan, t.ms) for t in timed if t.proposal.kind is not Kind.BASELINE]
    cost = fitted(job, calibrated, observed, precision)
    if cost is None:
        return [], 0.0
    mine = [t for t in timed if t.proposal.kind is not Kind.BASELINE and t.proposal.plan.float_precision == precision]
    drops = [(assignment_of(t.proposal.plan), t.drop) for t in mine]
    predicted = QualityModel.of(sensitivities(job, choices)).scaled(drops)
    measured = [Measured(assignment, None, drop) for assignment, drop in drops]
    quality = refit_quality(predicted, partition(choices.float_graph), measured)
    allowed = {name: (*choices.integer_precisions(name), precision) for name in choices.layers}
    separable = SeparableCost.of(cost, _source(calibrated))
    tied = [group.layers for group in ties(choices.float_graph)]
    points, seconds, _ = solve_front(choices, {precision: allowed}, separable, quality, tied, BUDGETS)
    note(f"{len(points)} plans of int8 and {precision} on the predicted front, solved in {seconds:.1f} s")
    # On a network whose engines differ by less than the clock can tell, the front may be one plan: the ladder fills it.
    rungs = points_of(choices, ladder(allowed, quality, tied), precision, separable.ms, quality, separable.source)
    mixed = [p for p in (*points, *rungs) if len(p.plan.quantized_layers) > 0 and p.predicted_ms > 0]
    return [_Candidate(p.plan, p.predicted_ms, p.predicted_drop, separable.source) for p in mixed], seconds


def _source(calibrated: Sequence[Calibration]) -> str:
    from_table = any(c.covered is not None for c in calibrated)
    return "kernels of the latency table" if from_table else "kernels timed in place"


def _spread(candidates: Sequence[_Candidate], count: int) -> list[_Candidate]:
    """Up to `count` of the candidates, evenly over their times."""
    if count <= 0 or not candidates:
        return []
    ordered = sorted(candidates, key=lambda c: c.ms)
    if len(ordered) <= count:
        return list(ordered)
    picks = {round(place) for place in np.linspace(0, len(ordered) - 1, count)}
    return [ordered[place] for place in sorted(picks)]


def _key(plan: Plan) -> tuple[str, ...]:
    return (plan.runtime, plan.float_precision, *plan.quantized_layers)
