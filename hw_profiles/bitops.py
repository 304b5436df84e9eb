"""BitOps: the one definition."""

from __future__ import annotations


def bitops(macs: int, weight_bits: int, act_bits: int, kept_fraction: float = 1.0) -> float:
    """BitOps = MACs x weight bits x activation bits x kept fraction.

    `macs` counts the multiply-accumulates of the dense layer; bits are those of the plan, 32 or 16 for float;
    `kept_fraction` is the share of weights that are not pruned (2:4 gives 0.5). It measures information, not time:
    what a device really executes is in the profile's `executes_as`.
    """
    if macs < 0 or weight_bits < 1 or act_bits < 1 or not 0.0 <= kept_fraction <= 1.0:
        raise ValueError(f"not a layer: {macs} MACs, {weight_bits} x {act_bits} bits, kept fraction {kept_fraction}")
    return macs * weight_bits * act_bits * kept_fraction
