"""curve.png: quality against measured latency, for a paper or a slide."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bitwright.foundation.files import atomic_path
from bitwright.report.tradeoff_curve import CurvePoint, Kind, TradeoffCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

COLOURS = {
    Kind.BASELINE: "#16191d",
    Kind.FLOAT: "#2a5ea8",
    Kind.INTEGER: "#b0561b",
    Kind.MIXED: "#0b6e62",
    Kind.RECOVERED: "#7a3b9a",
}
MARKERS = {Kind.BASELINE: "s", Kind.FLOAT: "D", Kind.INTEGER: "^", Kind.MIXED: "o", Kind.RECOVERED: "P"}
WORDS = {
    Kind.BASELINE: "baseline",
    Kind.FLOAT: "float",
    Kind.INTEGER: "all int8",
    Kind.MIXED: "mixed precision",
    Kind.RECOVERED: "trained",
}
_GREY, _SOFT = "#b4bac1", "#59616b"
_NEAR = 22.0
_OFFSETS = tuple(
    (x * scale, y * scale)
    for scale in (1.0, 1.6, 2.4, 3.4, 4.6, 6.0)
    for x, y in ((7, 7), (7, -7), (-7, 7), (-7, -7), (0, 11), (0, -11), (12, 0), (-12, 0), (3, 12), (-3, 12), (3, -12))
)
"""Where a label may stand, in points from its marker, best first."""


def write_png(curve: TradeoffCurve, path: Path, *, dpi: int = 200) -> None:
    """Draw the curve into `path`, atomically, 7.2 x 4.6 inches; dominated points are grey, the baseline is a square."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "font.family": "DejaVu Sans", "axes.linewidth": 0.7}):
        figure = Figure(figsize=(7.2, 4.6), dpi=dpi, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _draw(axes, curve)
        # Names are placed in pixels, which are known once the figure was laid out.
        figure.draw_without_rendering()
        _label(axes, curve)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw(axes: Axes, curve: TradeoffCurve) -> None:
    front = curve.front
    axes.plot(*_steps(front), color=COLOURS[Kind.MIXED], linewidth=1.1, alpha=0.55, zorder=2)
    shown = set()
    for point in curve.points:
        latency = point.latency
        colour = COLOURS[point.kind] if point.front.latency or point.kind is Kind.BASELINE else _GREY
        spread = None
        if latency.low_ms is not None and latency.high_ms is not None:
            spread = ([max(0.0, latency.ms - latency.low_ms)], [max(0.0, latency.high_ms - latency.ms)])
        axes.errorbar(
            latency.ms,
            point.quality.engine,
            xerr=spread,
            fmt=MARKERS[point.kind],
            markersize=6 if colour != _GREY else 4.5,
            color=colour,
            markeredgecolor="white",
            markeredgewidth=0.6,
            ecolor=colour,
            elinewidth=0.9,
            capsize=2,
            zorder=4 if colour != _GREY else 3,
        )
        shown.add(point.kind)
    for kind in (kind for kind in Kind if kind in shown):
        axes.plot([], [], MARKERS[kind], color=COLOURS[kind], markersize=5.5, label=WORDS[kind])
    axes.plot([], [], "o", color=_GREY, markersize=4.5, label="dominated")
    axes.legend(loc="best", frameon=False, fontsize=8, handletextpad=0.2)
    axes.margins(x=0.09, y=0.12)
    shape = "×".join(map(str, curve.input_shape))
    threads = f"{curve.threads} thread" + ("s" if curve.threads > 1 else "")
    axes.set_xlabel(f"measured latency, ms  ({shape}, {threads}; bars: 95 % interval)")
    axes.set_ylabel(f"{curve.metric} on {curve.dataset.words}, {curve.unit}")
    axes.set_title(curve.model.architecture, loc="left", fontsize=11, fontweight="bold")
    where = f"{curve.device.id}, {curve.runtime} {curve.runtime_version.split('-')[0]}"
    axes.set_title(where, loc="right", fontsize=8, color=_SOFT)
    axes.grid(color="#e6e9ec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(useOffset=False)
    axes.tick_params(color=_SOFT, labelcolor=_SOFT)


def _steps(front: Sequence[CurvePoint]) -> tuple[list[float], list[float]]:
    """The front as the staircase of what can be had: quality holds until the next point's latency."""
    x, y = [], []
    for index, point in enumerate(front):
        if index:
            x.append(point.latency.ms)
            y.append(front[index - 1].quality.engine)
        x.append(point.latency.ms)
        y.append(point.quality.engine)
    return x, y


def _label(axes: Axes, curve: TradeoffCurve) -> None:
    """Name the uniform points and those on the front, each where it covers nothing; far names get a thin line."""
    taken = _taken(axes, curve)
    frame = axes.get_window_extent()
    wanted = [p for p in curve.points if p.kind is not Kind.MIXED or p.front.latency]
    for point in sorted(wanted, key=lambda p: (p.kind is Kind.MIXED, p.latency.ms)):
        colour = COLOURS[point.kind] if point.front.latency or point.kind is Kind.BASELINE else _SOFT
        where = (point.latency.ms, point.quality.engine)
        note = axes.annotate(point.label, where, (0, 0), textcoords="offset points", fontsize=7.5, color=colour)
        for x, y in _OFFSETS:
            note.set_position((x, y))
            note.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
            note.set_verticalalignment("bottom" if y > 0 else "top" if y < 0 else "center")
            box = note.get_window_extent()
            if _inside(box, frame) and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                if abs(x) + abs(y) > _NEAR:
                    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 4}
                    axes.annotate("", where, (x, y), textcoords="offset points", arrowprops=line)
                break
        else:
            # A name that finds no place would cover another; the page shows it.
            note.remove()


def _taken(axes: Axes, curve: TradeoffCurve) -> list[Bbox]:
    """What a name must not cover: markers, intervals, the front's line and the legend, in pixels."""
    from matplotlib.transforms import Bbox

    found = []
    for point in curve.points:
        latency, quality = point.latency, point.quality.engine
        x, y = axes.transData.transform((latency.ms, quality))
        low, _ = axes.transData.transform((latency.low_ms or latency.ms, quality))
        high, _ = axes.transData.transform((latency.high_ms or latency.ms, quality))
        found.append(Bbox.from_extents(x - 8, y - 8, x + 8, y + 8))
        found.append(Bbox.from_extents(low - 2, y - 5, high + 2, y + 5))
    for begin, end in pairwise(axes.transData.transform(list(zip(*_steps(curve.front), strict=True)))):
        found.append(Bbox([np.minimum(begin, end) - 1, np.maximum(begin, end) + 1]))
    legend = axes.get_legend()
    return found if legend is None else [*found, legend.get_window_extent()]


def _inside(box: Bbox, frame: Bbox) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
