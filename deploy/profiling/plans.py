"""The plans that a network is profiled under, so that every precision and every boundary between two of them occurs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from compress.plan import LayerPlan, Placement, Plan
from deploy.engine import FloatPrecision

ALTERNATING = "alternating"
INTEGER = "int8"


def profiling_plans(
    layers: Sequence[str],
    *,
    architecture: str,
    device: str,
    runtime: str,
    integer: Mapping[str, LayerPlan],
    floats: Sequence[FloatPrecision],
    placement: Placement,
    mixed: Sequence[int] = (0, 1),
) -> dict[str, Plan]:
    """Plans by short names: all layers in each float precision; all on integers with each float precision for the rest;
    every second layer on integers; a random choice of layers for each seed in `mixed`.

    `floats`: the float precisions that the runtime has, the fastest first; mixed plans use that one. `integer`: the
    formats of each layer that the device executes on integers; the others stay in float.
    """

    def plan(chosen: set[str], precision: FloatPrecision) -> Plan:
        decisions = {name: integer[name] if name in chosen else LayerPlan() for name in layers}
        return Plan(
            architecture=architecture,
            device=device,
            runtime=runtime,
            float_precision=precision.value,
            placement=placement,
            layers=decisions,
        )

    plans = {precision.value: plan(set(), precision) for precision in floats}
    able = [name for name in layers if name in integer]
    if not able:
        return plans
    for index, precision in enumerate(floats):
        plans[INTEGER if index == 0 else f"{INTEGER}-{precision.value}"] = plan(set(able), precision)
    if len(able) > 1:
        plans[ALTERNATING] = plan(set(able[::2]), floats[0])
        for seed in mixed:
            generator = random.Random(seed)
            share = generator.uniform(0.25, 0.75)
            chosen = {name for name in able if generator.random() < share}
            plans[f"mixed-{seed}"] = plan(chosen, floats[0])
    return plans
