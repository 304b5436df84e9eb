"""The parts of a device's page: precisions, zero patterns, and all its numbers with their sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.table import Table
from rich.text import Text

from hw_profiles import DeviceProfile, PrecisionRule, Provenance, Status, TensorFormat
from hw_profiles.provenance import SECTIONS, children
from hw_profiles.resources import ClockPolicy

_STATUS_STYLES = {
    Status.MEASURED: "green",
    Status.PUBLISHED: "cyan",
    Status.DERIVED: "yellow",
    Status.UNVERIFIED: "red",
}


def precision_table(profile: DeviceProfile) -> Table:
    """The rules in their order: the first that covers an operator at its widths wins."""
    table = Table(title="Precisions, the first legal match wins", title_justify="left", header_style="bold")
    for heading in ("", "precision", "weights", "activations", "runs as", "speed", "status"):
        table.add_column(heading, no_wrap=heading in ("precision", "runs as", "status"))
    for place, rule in enumerate(profile.precisions, start=1):
        source = profile.source_of(f"precisions.{rule.id}")
        table.add_row(
            str(place),
            Text(rule.id, style="bold"),
            _format(rule.weight, rule),
            _format(rule.act, rule),
            rule.executes_as.value,
            _speed(rule),
            _status(source),
        )
    return table


def rule_lines(profile: DeviceProfile) -> tuple[str, ...]:
    """Which operators the rules cover and why some are emulated, rules with the same text together."""
    groups: dict[str, list[str]] = {}
    for rule in profile.precisions:
        groups.setdefault("all operators" if "*" in rule.ops else ", ".join(rule.ops), []).append(rule.id)
        if rule.emulation is not None:
            note = f": {rule.emulation.note}" if rule.emulation.note else ""
            groups.setdefault(f"emulated ({rule.emulation.kind.value}){note}", []).append(rule.id)
    return tuple(f"{', '.join(rules)}: {said}" for said, rules in groups.items())


def sparsity_table(profile: DeviceProfile) -> Table:
    """Zero patterns, and whether they gain time."""
    table = Table(title="Zero patterns", title_justify="left", header_style="bold")
    for heading in ("pattern", "gains", "with", "operators", "channels at least (in, out)", "status"):
        table.add_column(heading)
    for entry in profile.sparsity:
        least = f"{entry.min_in_channels or 'any'}, {entry.min_out_channels or 'any'}"
        gains = Text("time and size", style="green") if entry.native else Text("size only", style="dim")
        source = profile.source_of(f"sparsity.{entry.pattern}")
        table.add_row(entry.pattern, gains, ", ".join(entry.dtypes), ", ".join(entry.ops), least, _status(source))
    return table


def number_table(profile: DeviceProfile) -> Table:
    """Limits, peaks, memory, power and costs that are known. Units are in the names."""
    table = Table(title="Numbers and where they come from", title_justify="left", header_style="bold")
    table.add_column("number (unit in its name)", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("status", no_wrap=True)
    table.add_column("source", overflow="fold")
    for path, value in _numbers(profile):
        if value is not None:
            source = profile.source_of(path)
            table.add_row(path, str(value), _status(source), Text(source.source if source else ""))
    return table


def unknown_line(profile: DeviceProfile) -> str:
    """The numbers that the profile leaves open; none of them counts as zero anywhere."""
    return f"not known: {', '.join(path for path, value in _numbers(profile) if value is None) or 'nothing'}"


def measuring_line(profile: DeviceProfile) -> str:
    """How the device is measured; what must be set up on it is told, and done by its user."""
    hints = profile.measure
    if hints.via is None:
        return ""
    there = "" if hints.via.address is None else f" --on {hints.via.address}"
    parts = [f"measured with: bitwright measure RUN{there}"]
    if hints.setup:
        parts.append(f"first run on it: {'; '.join(' '.join(command) for command in hints.setup)}")
    if hints.clock_policy is ClockPolicy.LOCKED:
        parts.append("compare with clocks locked: bitwright records clocks and never sets them")
    return "; ".join(parts)


STATUS_LEGEND = (
    "measured: timed or read by us on such a device; published: printed by the vendor; derived: computed from "
    "published figures; unverified: seen or estimated somewhere, not confirmed"
)


def _numbers(profile: DeviceProfile) -> Iterator[tuple[str, object]]:
    data = profile.model_dump(mode="json", by_alias=True)
    for section in SECTIONS:
        yield from _leaves(data[section], section)


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for name, item in children(value):
            yield from _leaves(item, f"{path}.{name}")
    elif isinstance(value, list) and value:
        yield path, ", ".join(str(item) for item in value)
    elif not isinstance(value, Mapping | list):
        yield path, value


def _format(form: TensorFormat | None, rule: PrecisionRule) -> str:
    if form is None:
        return rule.executes_as.value
    words = [f"{form.width} bit {form.dtype.value}" if form.width != form.dtype.bits else form.dtype.value]
    if form.granularity is not None:
        words.append(f"per {form.granularity.value}")
    if form.symmetric is not None:
        words.append("symmetric" if form.symmetric else "asymmetric")
    return ", ".join(words)


def _speed(rule: PrecisionRule) -> Text:
    if rule.emulation is None:
        reduced = ", weights one bit narrower" if rule.reduce_range else ""
        return Text.assemble(("native", "green"), reduced)
    slowdown = rule.emulation.slowdown
    factor = "time not measured" if slowdown is None else f"{slowdown:g} x {rule.executes_as.value}"
    return Text.assemble(("emulated", "yellow"), f", {factor}")


def _status(source: Provenance | None) -> Text:
    return Text("-", style="dim") if source is None else Text(source.status.value, _STATUS_STYLES[source.status])
