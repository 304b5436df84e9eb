"""The result table on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bitwright.report import text, verdict
from bitwright.report.measured import Latency, LatencyStats
from bitwright.report.schema import Quality, Report

_STYLES = {
    verdict.Level.GOOD: "green",
    verdict.Level.INFO: "dim",
    verdict.Level.WARN: "yellow",
    verdict.Level.BAD: "bold red",
}
_MARKS = {verdict.Level.GOOD: "ok", verdict.Level.INFO: "- ", verdict.Level.WARN: "! ", verdict.Level.BAD: "NO"}


def print_result(report: Report, console: Console, report_path: Path | None = None) -> None:
    """Print quality, latency, size, BitOps and executed precision, then the checks and what to type next."""
    # Names come from files, so every cell is a Text: square brackets in them are not styling.
    table = Table(title=Text(f"{report.model.architecture} on {report.device.name}"), title_justify="left")
    table.add_column("")
    for heading in ("float", "engine", "change"):
        table.add_column(heading, justify="right")
    for row in (_quality(report.quality), *_latency(report.latency), _size(report), _bitops(report)):
        table.add_row(*(Text(cell) for cell in row))
    table.add_section()
    table.add_row(Text("planned"), Text(""), Text(_counts(report.audit.planned if report.audit else None)), Text(""))
    table.add_row(
        Text("executed" if report.was_run else "built in"),
        Text(""),
        Text(_counts(report.audit.executed if report.audit else None)),
        Text(""),
    )
    console.print(table)
    for check in verdict.checks(report):
        console.print(Text.assemble((_MARKS[check.level], _STYLES[check.level]), " ", check.text))
    if report.audit is not None:
        for item in report.audit.mismatches:
            executed = item.executed if item.executed is not None else text.NOT_AVAILABLE
            line = f"   {item.layer}: planned {item.planned}, executed {executed}: {item.reason}"
            console.print(Text(line, style="red"))
    for warning in report.warnings:
        console.print(Text(f"!  {warning}", style="yellow"))
    if report_path is not None:
        console.print(Text(f"report  {report_path}"), soft_wrap=True)
    if report.needs is not None:
        console.print(Text(f"needs   {report.needs.words}"), soft_wrap=True)
    console.print(Text(f"next    {report.next_command}"), soft_wrap=True)


def _quality(quality: Quality | None) -> tuple[str, str, str, str]:
    if quality is None:
        return ("quality", *(text.NOT_AVAILABLE,) * 3)
    label = f"{quality.metric}, {quality.dataset.words} ({quality.unit})"
    return (label, text.number(quality.float.mean, 3), text.number(quality.engine.mean, 3), text.signed(-quality.drop))


def _latency(latency: Latency | None) -> tuple[tuple[str, str, str, str], ...]:
    if latency is None:
        return (("p50 (ms)", *(text.NOT_AVAILABLE,) * 3), ("p90 (ms)", *(text.NOT_AVAILABLE,) * 3))
    speedup = latency.speedup
    change = f"{text.ratio(speedup.ratio)} [{text.ratio_interval(speedup.low, speedup.high)}]"
    return (
        ("p50 (ms)", _median(latency.float), _median(latency.engine), change),
        ("p90 (ms)", _p90(latency.float), _p90(latency.engine), ""),
    )


def _median(stats: LatencyStats) -> str:
    return f"{text.milliseconds(stats.median_ms)} [{text.interval(stats.median_low_ms, stats.median_high_ms)}]"


def _p90(stats: LatencyStats) -> str:
    if stats.p90_ms is None:
        return f"{text.NOT_AVAILABLE} (n={stats.n})"
    return f"{text.milliseconds(stats.p90_ms)} [{text.interval(stats.p90_low_ms, stats.p90_high_ms)}]"


def _size(report: Report) -> tuple[str, str, str, str]:
    size = report.size
    share = text.percent(size.bytes, size.float_bytes)
    return ("size", text.scaled(size.float_bytes, "B"), text.scaled(size.bytes, "B"), share)


def _bitops(report: Report) -> tuple[str, str, str, str]:
    total = report.bitops
    fewer = f"{text.ratio(total.ratio, 1)} fewer"
    return ("BitOps (computed)", text.scaled(total.float), text.scaled(total.planned), fewer)


def _counts(counts: dict[str, int] | None) -> str:
    if not counts:
        return text.NOT_AVAILABLE
    return ", ".join(f"{count} {precision}" for precision, count in counts.items())
