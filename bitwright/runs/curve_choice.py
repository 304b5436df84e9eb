"""The pick: the point of a curve that keeps the limits that the user set."""

from __future__ import annotations

from collections.abc import Sequence

from bitwright.report.tradeoff_curve import Choice, CurvePoint
from bitwright.runs.stages import SAFETY


def pick(points: Sequence[CurvePoint], *, budget_ms: float | None, max_drop: float | None, unit: str) -> Choice | None:
    """The point for a latency budget (best quality within it), a largest drop (fastest within it), or both.

    Held-out samples choose: a point may use `SAFETY` of the allowed drop on them, as in a compression job. Where
    nothing fits, the pick is the fastest point (budget), or the best within the budget, and `reached` is false. None
    where no limit was set.
    """
    if budget_ms is None and max_drop is None:
        return None
    allowed = float("inf") if max_drop is None else SAFETY * max_drop
    affordable = [p for p in points if budget_ms is None or p.latency.ms <= budget_ms]
    good = [p for p in affordable if p.quality.held_out_drop <= allowed]
    if good:
        chosen = _fastest(good) if budget_ms is None else _best(good)
        kept = max_drop is None or chosen.quality.drop <= max_drop
        why = _why(chosen, budget_ms, max_drop, unit)
        if not kept:
            lost = f"{chosen.quality.drop:.3f} {unit}, more than the allowed {max_drop:g}"
            why = f"{chosen.name} was chosen on held-out samples and loses {lost}, on those reported"
        return Choice(point=chosen.name, budget_ms=budget_ms, max_drop=max_drop, reached=kept, why=why)
    if affordable:
        chosen = _best(affordable)
        why = (
            f"no point within {budget_ms:g} ms keeps the allowed drop of {max_drop:g} {unit}; "
            f"{chosen.name} loses the least, {chosen.quality.drop:.3f} {unit}"
        )
    else:
        chosen = _fastest(points)
        why = f"no point runs within {budget_ms:g} ms; the fastest, {chosen.name}, takes {chosen.latency.ms:.2f} ms"
    return Choice(point=chosen.name, budget_ms=budget_ms, max_drop=max_drop, reached=False, why=why)


def _fastest(points: Sequence[CurvePoint]) -> CurvePoint:
    return min(points, key=lambda p: (p.latency.ms, p.quality.held_out_drop, p.name))


def _best(points: Sequence[CurvePoint]) -> CurvePoint:
    return min(points, key=lambda p: (p.quality.held_out_drop, p.latency.ms, p.name))


def _why(chosen: CurvePoint, budget_ms: float | None, max_drop: float | None, unit: str) -> str:
    limits = [] if budget_ms is None else [f"within {budget_ms:g} ms"]
    limits += [] if max_drop is None else [f"that loses at most {max_drop:g} {unit}"]
    what = "the fastest" if budget_ms is None else "the best quality"
    return f"{what} {' and '.join(limits)}: {chosen.latency.ms:.2f} ms, drop {chosen.quality.drop:.3f} {unit}"
