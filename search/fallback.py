"""The layers to leave in float so that a quality constraint holds: most quality regained per multiply-add first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compress.plan import Plan

REASON = "left in float: too sensitive for the allowed drop"


@dataclass(frozen=True)
class Trial:
    """One plan that was looked at, and its drop in the metric's unit."""

    plan: Plan
    drop: float


def fallback_order(sensitivity: Mapping[str, float], macs: Mapping[str, int]) -> list[str]:
    """Layers by quality lost per multiply-add, worst first; ties by name, so that the order is reproducible."""
    return sorted(sensitivity, key=lambda name: (-max(sensitivity[name], 0.0) / max(macs[name], 1), name))


def meet_drop(
    plan: Plan, order: list[str], allowed: float, drop_of: Callable[[Plan], float], known: float
) -> list[Trial]:
    """Trials in the order they were evaluated; the last one is the answer, within `allowed` if that can be had.

    Layers are added from the front of `order` in growing steps, then the smallest prefix that suffices is found by
    bisection. `known`: the drop of `plan` itself.
    """
    trials = [Trial(plan, known)]
    if known <= allowed or not order:
        return trials

    def look(count: int) -> Trial:
        chosen = plan.with_float(set(order[:count]), REASON)
        trials.append(Trial(chosen, drop_of(chosen)))
        return trials[-1]

    failed, count = 0, 1
    best = look(count)
    while best.drop > allowed and count < len(order):
        failed, count = count, min(len(order), count * 2)
        best = look(count)
    while count - failed > 1 and best.drop <= allowed:
        middle = (failed + count) // 2
        trial = look(middle)
        if trial.drop <= allowed:
            count, best = middle, trial
        else:
            failed = middle
    if trials[-1] is not best:
        trials.append(best)
    return trials
