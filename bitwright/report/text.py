"""Numbers as a reader wants them: fixed digits, units, and `n/a` for what was not measured."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

NOT_AVAILABLE = "n/a"
_MINUS = "\N{MINUS SIGN}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_EN_DASH = "\N{EN DASH}"
_PREFIXES = ("", "k", "M", "G", "T", "P")


def number(value: float | None, digits: int = 2) -> str:
    """A value with fixed digits and a true minus sign; `n/a` for None, and no negative zero."""
    if value is None:
        return NOT_AVAILABLE
    text = f"{value:,.{digits}f}"
    if text.startswith("-"):
        text = text[1:] if not text.strip("-0.,") else _MINUS + text[1:]
    return text


def signed(value: float | None, digits: int = 3) -> str:
    """A difference: like `number`, with a plus sign on gains."""
    text = number(value, digits)
    positive = value is not None and value > 0 and bool(text.strip("0.,"))
    return f"+{text}" if positive else text


def milliseconds(value: float | None) -> str:
    """Latency in ms with about four significant digits, without the unit."""
    if value is None:
        return NOT_AVAILABLE
    return number(value, 1 if value >= 100 else 2 if value >= 1 else 3)


def interval(low: float | None, high: float | None) -> str:
    """An interval of latencies in ms, `n/a` unless both ends are known."""
    if low is None or high is None:
        return NOT_AVAILABLE
    return f"{milliseconds(low)}{_EN_DASH}{milliseconds(high)}"


def duration(seconds: float | None) -> str:
    """Wall-clock time: 0.4 s, 12 s, 3 min 05 s, 1 h 02 min."""
    if seconds is None:
        return NOT_AVAILABLE
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def scaled(value: float | None, unit: str = "") -> str:
    """A count with a decimal prefix and three digits: 433 k, 6.74 G; `unit` follows it (433 kB)."""
    if value is None:
        return NOT_AVAILABLE
    size, power = float(value), 0
    while abs(size) >= 999.5 and power < len(_PREFIXES) - 1:
        size, power = size / 1000, power + 1
    prefix = _PREFIXES[power]
    digits = 0 if prefix == "" or abs(size) >= 99.95 else 1 if abs(size) >= 9.995 else 2
    return f"{size:.{digits}f} {prefix}{unit}".rstrip()


def ratio(value: float | None, digits: int = 2) -> str:
    """A ratio with a multiplication sign: 3.21×."""
    return NOT_AVAILABLE if value is None else f"{value:.{digits}f}{_TIMES}"


def ratio_interval(low: float | None, high: float | None, prefix: str = "") -> str:
    """An interval of ratios, such as 3.17-3.24, after `prefix`; `interval n/a` unless both ends are known."""
    if low is None or high is None:
        return f"interval {NOT_AVAILABLE}"
    return f"{prefix}{number(low)}{_EN_DASH}{number(high)}"


def percent(part: float, whole: float) -> str:
    """`part` as a percentage of `whole`; `n/a` when there is no whole."""
    return NOT_AVAILABLE if whole == 0 else f"{100 * part / whole:.0f} %"


def sizes(named: Iterable[tuple[str, float | None]]) -> str:
    """Names with their sizes in bytes: model.onnx 512 kB, engine.json 1.20 kB."""
    return ", ".join(name if size is None else f"{name} {scaled(size, 'B')}" for name, size in named)


def shape(dimensions: Iterable[int]) -> str:
    """A tensor shape: 1×3×128×128."""
    return _TIMES.join(str(size) for size in dimensions)


def command_line(arguments: Iterable[str]) -> str:
    """A command as it can be typed again in a POSIX shell."""
    return shlex.join(arguments)
