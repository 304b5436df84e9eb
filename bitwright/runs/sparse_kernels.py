"""Which layers of a plan have sparse kernels in the runtime, what its builder made of that, and both in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from compress.layer_table import LayerRow, LayerTable
from compress.nm_pattern import Sparsity
from compress.plan import LayerPlan, Plan
from compress.sparsity.eligibility import reduction_length
from deploy.engine import SparseTactics
from hw_profiles import DType, Op
from hw_profiles.schema import Arch
from hw_profiles.sparsity_support import SIZE_ONLY, Use, why_size_only, work_left

HALF = 0.5
"""Density of 2:4, beyond which sparse tensor cores gain nothing more."""


@dataclass(frozen=True)
class Effect:
    """`size_only`: no kernel gains time from the zeros. `told`: what they do; `warning`: what is in vain."""

    size_only: bool
    told: str
    warning: str = ""


def use_of(row: LayerRow, runtime: str, dtype: DType, pattern: Sparsity, arch: Arch) -> Use:
    """A layer call as the capability table asks for it; a grouped convolution is as many products as it has groups."""
    outputs = row.output_shape[-1 if row.op is Op.LINEAR else 1] // row.groups
    return Use(
        runtime, row.op, dtype, pattern.n, pattern.m, features=tuple(arch.features), isa=arch.isa or "",
        in_channels=reduction_length(row), out_channels=outputs,
    )  # fmt: skip


def in_vain(table: LayerTable, plan: Plan, arch: Arch) -> str:
    """A warning of patterns that are sparser than their kernels can use; empty where there are none."""
    left = {name: work_left(use) for name, use in _uses(table, plan, arch).items()}
    sparser = {
        str(pattern) for name, pattern in plan.sparse_layers.items() if left[name] < 1 and pattern.density < HALF
    }
    if not sparser:
        return ""
    names = ", ".join(sorted(sparser))
    return f"{names} on sparse tensor cores runs as 2:4 does: what is pruned beyond costs quality and gains size only"


def effect(
    table: LayerTable, plan: Plan, arch: Arch, tactics: SparseTactics | None, nodes: Mapping[str, str], *,
    compiled: bool,
) -> Effect:  # fmt: skip
    """What the zeros of a plan are worth. `nodes`: layer -> its node in the built file; `compiled`: by a builder."""
    uses, macs = _uses(table, plan, arch), {row.name: row.macs for row in table.rows}
    helped = [name for name, use in uses.items() if work_left(use) < 1]
    picked = _picked(tactics, nodes, macs) if compiled else ""
    if not helped:
        reasons = Counter(why_size_only(use) for use in uses.values())
        why = reasons.most_common(1)[0][0] if reasons else "no layer is pruned"
        return Effect(True, f"N:M is {SIZE_ONLY} here: {plan.runtime} gains no time from zeros ({why}){picked}")
    share = 100 * sum(macs[name] for name in helped) / table.macs
    told = f"Sparse kernels exist for {share:.0f} % of the MACs; whether they help, only the latency tells{picked}"
    return Effect(False, told, in_vain(table, plan, arch))


def _uses(table: LayerTable, plan: Plan, arch: Arch) -> dict[str, Use]:
    return {
        row.name: use_of(row, plan.runtime, _computed_in(layer, plan), layer.sparsity, arch)
        for row in table.rows
        for layer in (plan.layers[row.name],)
        if layer.sparsity is not None
    }


def _computed_in(layer: LayerPlan, plan: Plan) -> DType:
    return DType.INT8 if layer.quantized else DType(plan.float_precision)


def _picked(tactics: SparseTactics | None, nodes: Mapping[str, str], macs: Mapping[str, int]) -> str:
    """The builder's own words, with the share of the MACs where it named what it picked."""
    if tactics is None:
        return "; the builder told nothing of layers that it found eligible or picked"
    told = f"; the builder found {tactics.eligible} layers eligible and picked sparse kernels for {tactics.picked}"
    if not tactics.picked:
        return told
    # Fused layers have the names of their nodes with + between them.
    parts = {part.strip() for name in tactics.picked_layers for part in name.split("+")}
    known = [name for name, node in nodes.items() if node in parts and name in macs]
    if len(known) < tactics.picked:
        return f"{told}, of which {len(known)} are known by name"
    return f"{told}: {100 * sum(macs[name] for name in known) / sum(macs.values()):.0f} % of the MACs"
