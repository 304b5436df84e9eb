"""The points of a curve as a table on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bitwright.report import text
from bitwright.report.tradeoff_curve import CurvePoint, TradeoffCurve


def print_curve(curve: TradeoffCurve, console: Console, run: Path) -> None:
    """Print every point, fastest first; those on the front are marked and the others dimmed."""
    # Names come from files, so every cell is a Text: square brackets in them are not styling.
    title = f"{curve.model.architecture} on {curve.device.name}, {curve.runtime} {curve.runtime_version}"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("")
    table.add_column("point")
    table.add_column("executed")
    headings = (f"{curve.metric} ({curve.unit})", "change", "ms", "speed-up", "predicted", "size", "BitOps")
    for heading in headings:
        table.add_column(heading, justify="right")
    for point in sorted(curve.points, key=lambda p: p.latency.ms):
        style = "" if point.front.latency else "dim"
        table.add_row(*(Text(cell, style=style) for cell in _row(point, curve)))
    console.print(table)
    count = len(curve.front)
    console.print(
        Text(f"* not dominated in {curve.metric} and latency: {count} of {len(curve.points)} measured points")
    )
    for warning in curve.warnings:
        console.print(Text(f"!  {warning}", style="yellow"))
    if curve.chosen is not None:
        style = "green" if curve.chosen.reached else "bold red"
        console.print(Text(f"chosen  {curve.chosen.point}: {curve.chosen.why}", style=style))
    console.print(Text(f"page    {run / 'curve.html'}"), soft_wrap=True)


def counts(point: CurvePoint) -> str:
    """The executed precisions of a point: 40 int8, 12 bf16."""
    return ", ".join(f"{count} {precision}" for precision, count in sorted(point.executed.items(), reverse=True))


def _row(point: CurvePoint, curve: TradeoffCurve) -> tuple[str, ...]:
    latency = point.latency
    speed = text.ratio(latency.speedup)
    if latency.speedup_low is not None and latency.speedup_high is not None and point.name != curve.baseline:
        speed += f" [{text.number(latency.speedup_low)}\N{EN DASH}{text.number(latency.speedup_high)}]"
    chosen = curve.chosen is not None and curve.chosen.point == point.name
    return (
        ">" if chosen else "*" if point.front.latency else "",
        point.name,
        counts(point) if point.audit_passed else f"{counts(point)} (not as planned)",
        text.number(point.quality.engine, 3),
        text.signed(-point.quality.drop),
        text.milliseconds(latency.ms),
        speed,
        "" if point.prediction.ms is None else text.milliseconds(point.prediction.ms),
        text.scaled(point.size_bytes, "B"),
        text.scaled(point.bitops),
    )
