"""Learning rate over the steps, and the number of steps that a time budget allows."""

from __future__ import annotations

import math

PACE_STEPS = 24
"""Steps whose time decides how many fit into a time budget."""
SKIPPED = 4
"""First steps that do not count for the pace: they allocate memory."""


def rate_share(step: int, total: int, warm_up: int, final: float) -> float:
    """Share of the peak rate at a step: linear warm-up, then half a cosine down to `final`."""
    warm_up = min(warm_up, total // 4)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    done = (step - warm_up) / max(1, total - warm_up)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def affordable_steps(seconds: float, per_step: float, taken: int) -> int:
    """Steps in all, if `taken` are done and `seconds` are left."""
    return taken + max(1, int(seconds / per_step))
