"""The stage of narrowing, first after the float baseline: fewer channels where the device computes whole blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx

from bitwright.foundation.files import write_json
from bitwright.foundation.progress import note, track
from bitwright.report.pruned import NarrowedResult
from bitwright.runs.job import KEPT, NARROW, NARROWED, Job
from compress.graph import save_graph
from compress.narrowing import Class, Narrowed, Narrowing

MOST = 0.1
"""Largest share of a tensor's channels that is removed: 50 of RFDN become 48, 36 do not become 32."""


def narrowed(job: Job) -> None:
    """Cut channels to the device's step, cheapest first, as many as the allowed drop of `--narrow` pays for.

    Nothing is trained here: what is lost is told by the other channels, and recovery training brings back more.
    """
    allowed, step = job.request.narrow, job.profile.channel_step("int8")
    if allowed is None or step is None:
        why = "not asked for" if allowed is None else f"{job.profile.id} has no step of channels"
        job.run.finish_stage(NARROWED, [], {"skipped": why, "widths": {}})
        return
    found = Narrowing(job.graph, job.calibration, step, MOST)
    reference = job.evaluate_few(job.graph)
    drops = [
        reference - job.evaluate_few(found.cut([each]).graph)
        for each in track(found.classes, "measuring what each width is worth")
    ]
    order = [each for _, each in sorted(zip(drops, found.classes, strict=True), key=lambda pair: pair[0])]
    whole = job.evaluate(job.graph)

    def drop_of(graph: fx.GraphModule) -> float:
        return whole - job.evaluate(graph)

    result, drop = most_within(found, order, drop_of, allowed)
    unit = job.loaded.workload.unit
    if not result.widths:
        note(f"no layer is narrowed: none has a few channels more than a multiple of {step} for {allowed:g} {unit}")
        job.run.finish_stage(NARROWED, [], {"skipped": "nothing to gain at this drop", "widths": {}})
        return
    note(f"{len(result.widths)} layers narrowed to a multiple of {step} channels: drop {drop:.3f} {unit}, not trained")
    save_graph(result.graph, job.run.path / NARROW)
    write_json(job.run.path / KEPT, result.kept)
    values = {"skipped": None, "step": step, "drop": drop, "widths": {n: list(w) for n, w in result.widths.items()}}
    job.run.finish_stage(NARROWED, [NARROW, KEPT], values)
    job.become(result.graph)


def narrowed_section(job: Job) -> NarrowedResult | None:
    """The channels that were removed; None where none were."""
    if not job.narrower:
        return None
    found = job.run.values(NARROWED)
    return NarrowedResult(step=found["step"], drop=found["drop"], layers=found["widths"])


def most_within(found: Narrowing, order: Sequence[Class], drop_of: Callable[[fx.GraphModule], float],
                allowed: float) -> tuple[Narrowed, float]:  # fmt: skip
    """The longest beginning of `order` whose drop is within `allowed`, by halving, and its drop."""
    best, best_drop = found.cut([]), 0.0
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        trial = found.cut(order[:middle])
        drop = drop_of(trial.graph)
        if drop <= allowed:
            low, best, best_drop = middle, trial, drop
        else:
            high = middle - 1
    return best, best_drop
