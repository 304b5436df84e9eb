"""Small inline SVG charts. Colours come from the page's style sheet by class, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from bitwright.report import text

_WIDTH = 640


@dataclass(frozen=True)
class Series:
    """One named distribution in ms; `style` is the class that colours it."""

    label: str
    style: str
    samples_ms: Sequence[float]
    median_ms: float
    low_ms: float | None
    high_ms: float | None
    p90_ms: float | None


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round tick values inside [low, high], about `about` of them, in steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_label(value: float) -> str:
    """A tick value without trailing zeros."""
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def strip(series: Sequence[Series]) -> Markup:
    """Every sample of each series as a dot, the median as a bar, on one axis from zero so that lengths compare."""
    row, left, top = 74, 12, 10
    height = top + row * len(series) + 38
    high = max(max(item.samples_ms) for item in series) * 1.04
    scale = _linear(0, high, left, _WIDTH - 16)
    floor = top + row * len(series)
    parts = [_axis(scale, 0, high, top, floor, "ms")]
    for index, item in enumerate(series):
        y = top + row * index
        middle = y + 46
        label = f"{item.label}: {text.milliseconds(item.median_ms)} ms"
        parts.append(
            f'<g class="{escape(item.style)}">'
            f'<rect class="bar" x="{left}" y="{middle - 15}" width="{scale(item.median_ms) - left:.1f}" height="30"/>'
            f'<path class="dots" d="{_dots(item.samples_ms, scale, middle)}"/>'
            f"{_interval(item, scale, middle)}"
            f'<line class="median" x1="{scale(item.median_ms):.1f}" x2="{scale(item.median_ms):.1f}" '
            f'y1="{middle - 19}" y2="{middle + 19}"/>'
            f'<text class="label" x="{left}" y="{y + 20}">{escape(label)}</text></g>'
        )
    return _svg(height, f"Latency samples of {' and '.join(item.label for item in series)}", "".join(parts))


def histogram(item: Series, bins: int = 40) -> Markup:
    """The shape of one distribution over its own range, with the median, its interval and the 90th percentile."""
    height, left, top, floor = 190, 12, 34, 152
    low, high = min(item.samples_ms), max(item.samples_ms)
    if high <= low:
        low, high = low * 0.99, high * 1.01 + 1e-9
    counts = [0] * bins
    for sample in item.samples_ms:
        counts[min(bins - 1, int((sample - low) / (high - low) * bins))] += 1
    scale = _linear(low, high, left, _WIDTH - 16)
    width = (_WIDTH - 16 - left) / bins
    tall = max(counts)
    bars = "".join(
        f'<rect class="column" x="{left + index * width + 0.5:.1f}" y="{floor - (floor - top) * count / tall:.1f}" '
        f'width="{width - 1:.1f}" height="{(floor - top) * count / tall:.1f}"/>'
        for index, count in enumerate(counts)
        if count
    )
    parts = [_axis(scale, low, high, top, floor, "ms"), f'<g class="{escape(item.style)}">']
    if item.low_ms is not None and item.high_ms is not None:
        begin, end = scale(max(item.low_ms, low)), scale(min(item.high_ms, high))
        wide = max(end - begin, 1.0)
        parts.append(f'<rect class="band" x="{begin:.1f}" y="{top}" width="{wide:.1f}" height="{floor - top}"/>')
    parts.append(bars)
    parts.append(_marker(scale(item.median_ms), top, floor, "median"))
    parts.append(f'<text class="mark" x="{_anchor(scale(item.median_ms)):.1f}" y="14">median</text>')
    if item.p90_ms is not None:
        at = scale(min(item.p90_ms, high))
        crowded = abs(at - scale(item.median_ms)) < 64
        parts.append(_marker(at, top, floor, "p90"))
        parts.append(f'<text class="mark" x="{_anchor(at):.1f}" y="{28 if crowded else 14}">p90</text>')
    parts.append("</g>")
    return _svg(height, f"Histogram of {len(item.samples_ms)} latency samples of {item.label}", "".join(parts))


def trade_off(points: Sequence[tuple[int, float, bool]], limit: float | None, unit: str) -> Markup:
    """Plans that were tried: quantised layers against quality loss; the chosen one filled, the limit dashed."""
    height, left, top, floor = 240, 60, 14, 200
    losses = [loss for _, loss, _ in points] + ([limit] if limit is not None else [])
    low, high = min(0.0, *losses), max(0.0, *losses)
    pad = (high - low) * 0.08 or 0.01
    low, high = low - pad, high + pad
    layers = [count for count, _, _ in points]
    x = _linear(min(layers) - 0.5, max(layers) + 0.5, left, _WIDTH - 24)
    y = _linear(low, high, floor, top)
    parts: list[str] = []
    for tick in ticks(low, high, 5):
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - 16}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick end" x="{left - 8}" y="{y(tick) + 4:.1f}">{tick_label(round(tick, 9))}</text>')
    for tick in ticks(min(layers), max(layers), 8):
        if tick == int(tick):
            parts.append(f'<text class="tick mid" x="{x(tick):.1f}" y="{floor + 18}">{int(tick)}</text>')
    parts.append(f'<text class="tick mid" x="{(left + _WIDTH) / 2}" y="{floor + 36}">quantised layers</text>')
    if limit is not None:
        parts.append(f'<line class="limit" x1="{left}" x2="{_WIDTH - 16}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"/>')
        parts.append(f'<text class="limit-text end" x="{_WIDTH - 18}" y="{y(limit) - 6:.1f}">limit</text>')
    for count, loss, chosen in sorted(points, key=lambda point: point[2]):
        title = escape(f"{count} layers: {text.number(loss, 3)} {unit}")
        parts.append(
            f'<circle class="{"chosen" if chosen else "tried"}" cx="{x(count):.1f}" cy="{y(loss):.1f}" '
            f'r="{7 if chosen else 5}"><title>{title}</title></circle>'
        )
    return _svg(height, f"Quality loss in {unit} of the plans that were tried", "".join(parts))


def _linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _svg(height: float, title: str, body: str) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">{body}</svg>'
    )


def _axis(scale: Callable[[float], float], low: float, high: float, top: float, floor: float, unit: str) -> str:
    parts = [f'<line class="axis" x1="{scale(low):.1f}" x2="{scale(high):.1f}" y1="{floor}" y2="{floor}"/>']
    for tick in ticks(low, high):
        at = scale(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{floor}"/>')
        parts.append(f'<text class="tick mid" x="{_anchor(at, 14):.1f}" y="{floor + 18}">{tick_label(tick)}</text>')
    parts.append(f'<text class="tick end" x="{scale(high):.1f}" y="{floor + 34}">{unit}</text>')
    return "".join(parts)


def _dots(samples: Sequence[float], scale: Callable[[float], float], middle: float) -> str:
    # The golden-ratio sequence spreads the dots evenly without a random generator: the same report is the same bytes.
    spread = 26
    return "".join(
        f"M{scale(sample):.1f} {middle - spread / 2 + spread * (index * 0.618034 % 1):.1f}h0"
        for index, sample in enumerate(samples)
    )


def _interval(item: Series, scale: Callable[[float], float], middle: float) -> str:
    if item.low_ms is None or item.high_ms is None:
        return ""
    begin, end = scale(item.low_ms), scale(item.high_ms)
    return f'<rect class="band" x="{begin:.1f}" y="{middle - 19}" width="{max(end - begin, 1.0):.1f}" height="38"/>'


def _marker(x: float, top: float, floor: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 2}" y2="{floor}"/>'


def _anchor(x: float, margin: float = 24) -> float:
    return min(max(x, margin), _WIDTH - margin)
