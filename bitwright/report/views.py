"""What the page shows, derived from a report: rows with their bar lengths, already in reading order."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from bitwright.report import charts
from bitwright.report.measured import Latency, LatencyStats
from bitwright.report.schema import Layer, Quality, Report

_KNOWN_PRECISIONS = ("int8", "int4", "w4a16", "fp8", "bf16", "fp16", "fp32")
_WORST_SHOWN = 20


@dataclass(frozen=True)
class ImageRow:
    """One sample before and after; `length` is its bar as a fraction of the largest change."""

    name: str
    before: float
    after: float
    drop: float
    length: float


@dataclass(frozen=True)
class LayerRow:
    """One layer; the shares are fractions of the largest value in the table."""

    layer: Layer
    mismatch: bool
    macs_share: float
    sensitivity_share: float | None


@dataclass(frozen=True)
class PrecisionRow:
    """The layers per precision of one line, with the share of each: (precision, layers, share)."""

    label: str
    parts: tuple[tuple[str, int, float], ...]


def precision_style(precision: str | None) -> str:
    """The style class of a precision; unknown ones share a class, so a precision never becomes markup."""
    return f"p-{precision}" if precision in _KNOWN_PRECISIONS else "p-other"


def image_rows(quality: Quality) -> tuple[ImageRow, ...]:
    """Samples measured on both sides, largest loss first."""
    before, after = quality.float.per_image, quality.engine.per_image
    drops = {name: before[name] - after[name] for name in before if name in after}
    longest = max((abs(drop) for drop in drops.values()), default=0.0) or 1.0
    order = sorted(drops, key=lambda name: -drops[name])
    return tuple(ImageRow(name, before[name], after[name], drops[name], abs(drops[name]) / longest) for name in order)


def worst_and_rest(rows: tuple[ImageRow, ...]) -> tuple[tuple[ImageRow, ...], tuple[ImageRow, ...]]:
    """The rows that stay open on the page, and the rest that folds away."""
    if len(rows) <= _WORST_SHOWN + 4:
        return rows, ()
    return rows[:_WORST_SHOWN], rows[_WORST_SHOWN:]


def layer_rows(report: Report) -> tuple[LayerRow, ...]:
    """Layers in the order of the network."""
    wrong = {mismatch.layer for mismatch in report.audit.mismatches} if report.audit else set()
    macs = max((layer.macs for layer in report.layers), default=0) or 1
    known = [abs(layer.sensitivity_db) for layer in report.layers if layer.sensitivity_db is not None]
    largest = max(known, default=0.0) or 1.0
    return tuple(
        LayerRow(
            layer=layer,
            mismatch=layer.name in wrong,
            macs_share=layer.macs / macs,
            sensitivity_share=None if layer.sensitivity_db is None else max(layer.sensitivity_db, 0.0) / largest,
        )
        for layer in report.layers
    )


def precision_rows(report: Report) -> tuple[PrecisionRow, ...]:
    """Planned and executed layers per precision; empty without an audit."""
    if report.audit is None:
        return ()
    rows = (("Planned", report.audit.planned), ("Executed" if report.was_run else "Built in", report.audit.executed))
    return tuple(_precision_row(label, counts) for label, counts in rows if sum(counts.values()))


def latency_charts(latency: Latency) -> tuple[Markup, ...]:
    """The shared axis first, then the shape of each distribution."""
    engine = _series("Engine", "engine", latency.engine)
    baseline = _series(latency.baseline, "float", latency.float)
    return charts.strip((engine, baseline)), charts.histogram(engine), charts.histogram(baseline)


def plan_chart(report: Report) -> Markup | None:
    """The plans that were tried, when at least two were evaluated."""
    points = [
        (step.quantized_layers, step.drop_db, step.chosen) for step in report.plan_search if step.drop_db is not None
    ]
    unit = "dB" if report.quality is None else report.quality.unit
    return charts.trade_off(points, report.limits.max_drop_db, unit) if len(points) > 1 else None


def _series(label: str, style: str, stats: LatencyStats) -> charts.Series:
    return charts.Series(
        label=label,
        style=style,
        samples_ms=stats.samples_ms,
        median_ms=stats.median_ms,
        low_ms=stats.median_low_ms,
        high_ms=stats.median_high_ms,
        p90_ms=stats.p90_ms,
    )


def _precision_row(label: str, counts: dict[str, int]) -> PrecisionRow:
    total = sum(counts.values())
    order = sorted(counts, key=lambda name: (not name.startswith(("int", "fp8", "w4")), name))
    return PrecisionRow(label, tuple((name, counts[name], counts[name] / total) for name in order if counts[name]))
