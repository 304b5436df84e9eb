"""Front: the plans that are not dominated, from a sweep of budgets; each with what was predicted and measured."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bitwright.foundation.errors import ConstraintError, UsageError
from bitwright.foundation.progress import track
from compress.plan import Cost, Plan
from search.sensitivity.cost import SeparableCost
from search.sensitivity.precision import Alternatives, Assignment, assignment_of
from search.sensitivity.quality import QualityModel
from search.sensitivity.sensitivities import Sensitivities
from search.sensitivity.solve import Program, Solution

INTERACTIONS = 120
"""Strongest interactions that the integer program knows; the front is ranked with all of them."""

SOLVES_PER_POINT = 2


@dataclass(frozen=True)
class FrontPoint:
    """A plan (its `cost` holds the same times), predicted ms and drop, and what was measured on the engine, if it was.

    `measured_quality`: in the metric's unit, not a drop.
    """

    plan: Plan
    predicted_ms: float
    predicted_drop: float
    measured_ms: float | None = None
    measured_quality: float | None = None

    @property
    def assignment(self) -> dict[str, str]:
        """Precision by layer."""
        return assignment_of(self.plan)

    def measured(self, ms: float | None, quality: float | None) -> FrontPoint:
        """The same point with what its engine was measured at."""
        known = self.plan.cost
        cost = Cost(source="") if known is None else known
        cost = cost.model_copy(update={"measured_ms": ms})
        plan = self.plan.model_copy(update={"cost": cost})
        return FrontPoint(plan, self.predicted_ms, self.predicted_drop, ms, quality)


@dataclass(frozen=True)
class Front:
    """Points by ascending predicted time and descending predicted drop, the models behind them, seconds per stage.

    `reference_quality`: the float network's, on the samples of `evaluate`; None where nothing was evaluated.
    """

    points: tuple[FrontPoint, ...]
    cost: SeparableCost
    quality: QualityModel
    sensitivities: Sensitivities
    reference_quality: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    largest_gap: float = 0.0


def sweep(program: Program, budgets: int | Sequence[float]) -> list[Solution]:
    """Solutions over a range of budgets in ms, or at least that many distinct ones where the network has them.

    A number spreads budgets evenly between the fastest and the most exact plan, then halves the widest gaps that are
    left. Explicit budgets that nothing meets are skipped; ConstraintError where none can be met.
    """
    if not isinstance(budgets, int):
        solved = [s for s in (_try(program, b) for b in track(list(budgets), "solving")) if s is not None]
        if not solved:
            raise ConstraintError(f"no plan is as fast as {max(budgets, default=0.0):.3f} ms")
        return list(_distinct(solved).values())
    if budgets < 1:
        raise UsageError("a front needs at least one point")
    fastest = program.fastest()
    start, end = program.ms(fastest), program.ms(program.best(float("inf")))
    solved = [fastest]
    for k in track(range(1, budgets), "solving"):
        solved.append(program.best(start + (end - start) * k / (budgets - 1)))
    tried: set[float] = set()
    for _ in range((SOLVES_PER_POINT - 1) * budgets):
        known = sorted({program.ms(s) for s in _distinct(solved).values()} | tried)
        widths = [(b - a, (a + b) / 2) for a, b in itertools.pairwise(known)]
        if len(_distinct(solved)) >= budgets or not widths or max(widths)[0] <= 1e-6 * end:
            break
        budget = max(widths)[1]
        tried.add(budget)
        solved.append(program.best(budget))
    return list(_distinct(solved).values())


def _try(program: Program, budget: float) -> Solution | None:
    try:
        return program.best(budget)
    except ConstraintError:
        return None


def _distinct(solutions: Iterable[Solution]) -> dict[tuple[str, ...], Solution]:
    return {tuple(s.assignment.values()): s for s in solutions}


def non_dominated(points: Iterable[FrontPoint]) -> tuple[FrontPoint, ...]:
    """Points that no other one beats in both predicted time and drop, by ascending time."""
    kept: list[FrontPoint] = []
    for point in sorted(points, key=lambda p: (p.predicted_ms, p.predicted_drop)):
        if not kept or point.predicted_drop < kept[-1].predicted_drop:
            kept.append(point)
    return tuple(kept)


def points_of(
    alternatives: Alternatives,
    assignments: Iterable[Assignment],
    float_precision: str,
    ms: Callable[[Assignment], float],
    quality: QualityModel,
    source: str,
) -> list[FrontPoint]:
    """Assignments as plans with what is predicted of them; a fitted cost that is not a time is left out of the plan."""
    found = []
    for assignment in assignments:
        predicted = ms(assignment)
        plan = alternatives.plan(assignment, float_precision)
        plan = plan.model_copy(
            update={"cost": Cost(predicted_ms=predicted if predicted > 0.0 else None, source=source)}
        )
        found.append(FrontPoint(plan, predicted, quality.drop(assignment)))
    return found


def solve_front(
    alternatives: Alternatives,
    allowed: Mapping[str, Mapping[str, Sequence[str]]],
    cost: SeparableCost,
    quality: QualityModel,
    ties: Sequence[Sequence[str]] = (),
    budgets: int | Sequence[float] = 24,
) -> tuple[tuple[FrontPoint, ...], float, float]:
    """The front over all sweeps: points, seconds it took, and the largest gap to a proven optimum.

    `allowed`: by float precision, the precisions of each layer; each float precision is a sweep of its own, because a
    plan has one.
    """
    started = time.perf_counter()
    points: list[FrontPoint] = []
    gap = 0.0
    for float_precision, precisions in allowed.items():
        program = Program(precisions, cost, quality, ties, quality.strongest(INTERACTIONS, precisions))
        solutions = sweep(program, budgets)
        gap = max([gap, *(s.gap for s in solutions)])
        chosen = [s.assignment for s in solutions]
        points += points_of(alternatives, chosen, float_precision, cost.ms, quality, cost.source)
    return non_dominated(points), time.perf_counter() - started, gap
