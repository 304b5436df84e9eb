"""Small line charts of a mask training: one for each figure, against the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from bitwright.report.charts import tick_label, ticks
from bitwright.report.pruned import MaskTrainingResult

TITLES = {
    "v_var": "variance of the second moment",
    "g_var": "variance of the gradient",
    "update_pruned": "RMS of steps on pruned weights",
    "pruned_energy": "gradient energy on pruned weights",
    "flip_rate": "weights whose mask flips",
    "reentry_rate": "weights that come back",
    "sad": "distance from the first mask",
    "retained": "magnitude that the mask keeps",
}
"""What each figure is called on the page."""
LOGARITHMIC = frozenset({"v_var", "g_var", "update_pruned"})
_WIDTH, _HEIGHT, _LEFT, _TOP, _FLOOR = 320, 160, 58, 12, 130


def training_charts(training: MaskTrainingResult | None) -> tuple[tuple[str, Markup], ...]:
    """(title, chart) of each figure of a training that has at least two values; none where masks were not trained."""
    if training is None:
        return ()
    return tuple(
        (TITLES.get(name, name), line(training.at_steps, values, TITLES.get(name, name), name in LOGARITHMIC))
        for name, values in training.curves.items()
        if len(values) > 1
    )


def line(steps: Sequence[int], values: Sequence[float], title: str, logarithmic: bool) -> Markup:
    """`values` against `steps` as one line; on a logarithmic axis, values that are not positive leave a gap."""
    heights = [(math.log10(v) if v > 0 else None) if logarithmic else v for v in values]
    known = [h for h in heights if h is not None] or [0.0]
    low, high = min(known), max(known)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    across = (_WIDTH - 12 - _LEFT) / max(1, steps[-1] - steps[0])

    def x(step: float) -> float:
        return _LEFT + (step - steps[0]) * across

    def y(height: float) -> float:
        return _FLOOR - (height - low) / (high - low) * (_FLOOR - _TOP)

    parts = []
    for tick in ticks(low, high, 3):
        label = f"{10**tick:.0e}" if logarithmic else tick_label(round(tick, 9))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 12}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y(tick) + 4:.1f}">{label}</text>')
    for tick in ticks(steps[0], steps[-1], 4):
        parts.append(f'<text class="tick mid" x="{x(tick):.1f}" y="{_FLOOR + 18}">{tick_label(tick)}</text>')
    path, pen = "", "M"
    for step, height in zip(steps, heights, strict=True):
        if height is None:
            pen = "M"
            continue
        path += f"{pen}{x(step):.1f} {y(height):.1f}"
        pen = "L"
    parts.append(f'<g class="engine"><path class="curve" d="{path}"/></g>')
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
