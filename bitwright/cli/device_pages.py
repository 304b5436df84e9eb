"""Devices as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bitwright.cli.device_sections import (
    STATUS_LEGEND,
    measuring_line,
    number_table,
    precision_table,
    rule_lines,
    sparsity_table,
    unknown_line,
)
from hw_profiles import DeviceProfile, Host, HostMatch

Installed = Mapping[str, str | None]
_NONE = "-"


def catalogue(profiles: Sequence[DeviceProfile], installed: Installed, console: Console) -> None:
    """All profiles, one a line."""
    table = Table(title=f"{len(profiles)} device profiles", title_justify="left", header_style="bold")
    for heading in ("profile", "kind", "native", "emulated", "zeros", "runtimes"):
        table.add_column(heading, no_wrap=heading in ("profile", "kind"))
    for profile in profiles:
        table.add_row(
            Text(profile.id, style="bold cyan"),
            profile.kind.value,
            Text(_names(rule.id for rule in profile.precisions if rule.native), style="green"),
            Text(_names(rule.id for rule in profile.precisions if not rule.native), style="dim"),
            _names(entry.pattern for entry in profile.sparsity if entry.native),
            _runtime_names(profile, installed),
        )
    console.print(table)
    console.print(Text("wNaM: N-bit weights, M-bit activations. zeros: patterns that gain time. Runtimes in green are"))
    console.print(Text("installed here. Explain one: bitwright devices NAME. What fits here: bitwright devices --here"))


def explain(profile: DeviceProfile, installed: Installed, console: Console) -> None:
    """One profile: what it executes, with what, within which limits, and how far each number is to be believed."""
    console.print(Text.assemble((profile.id, "bold cyan"), f"  {profile.name}"))
    arch = profile.arch
    about = [f"kind {profile.kind.value}", f"family {arch.family}"]
    about += [f"instruction set {arch.isa}"] if arch.isa else []
    about += [f"needs {', '.join(arch.features)}"] if arch.features else []
    about += [f"calls itself {', '.join(arch.names)}"] if arch.names else []
    console.print(Text("; ".join(about)))
    if profile.notes:
        console.print(Text(profile.notes, style="italic"))
    console.print(precision_table(profile))
    for line in rule_lines(profile):
        console.print(Text(line))
    console.print(_runtime_table(profile, installed))
    if profile.sparsity:
        console.print(sparsity_table(profile))
    if measuring := measuring_line(profile):
        console.print(Text(measuring))
    console.print(number_table(profile))
    console.print(Text(unknown_line(profile), style="dim"))
    console.print(Text(STATUS_LEGEND, style="dim"))
    console.print(Text(f"profile hash {profile.hash()}", style="dim"), soft_wrap=True)


def here(host: Host, matches: Sequence[HostMatch], installed: Installed, console: Console) -> None:
    """This machine and the profiles that fit it, best first."""
    memory = "memory unknown" if host.memory_gb is None else f"{host.memory_gb:.1f} GB"
    console.print(Text.assemble((host.cpu_model or host.machine, "bold"), f"  {host.cores} usable cores, {memory}"))
    for what in (host.board, *host.gpus):
        if what:
            console.print(Text(what))
    found = ", ".join(f"{name} {version}" for name, version in installed.items() if version)
    console.print(Text(f"runtimes installed: {found or 'none'}"))
    absent = ", ".join(name for name, version in installed.items() if not version)
    console.print(Text(f"not installed: {absent or 'none'}", style="dim"))
    if not matches:
        console.print(Text("no profile of the catalogue fits this machine; write one, or choose with --device"))
        return
    for place, match in enumerate(matches):
        console.print()
        label = "  best match" if place == 0 else ""
        console.print(Text.assemble((match.profile.id, "bold cyan"), f"  {match.profile.name}", (label, "bold green")))
        console.print(Text(f"because {'; '.join(match.reasons)}", style="dim"))
        table = Table(header_style="bold")
        for heading in ("runtime", "here", "native", "emulated"):
            table.add_column(heading)
        for runtime in match.runtimes:
            table.add_row(
                runtime.engine,
                _availability(runtime.version, runtime.in_range),
                Text(_names(runtime.native), style="green"),
                Text(_names(runtime.emulated), style="dim"),
            )
        console.print(table)
    console.print(Text(f"next    bitwright compress CHECKPOINT --device {matches[0].profile.id} --data DIR"))


def _runtime_table(profile: DeviceProfile, installed: Installed) -> Table:
    table = Table(title="Runtimes, preferred first", title_justify="left", header_style="bold")
    for heading in ("runtime", "versions", "here", "native", "emulated", "always in float", "quantised by"):
        table.add_column(heading)
    for entry in profile.runtimes:
        rules = profile.rules(entry.engine)
        version = installed.get(entry.engine.value)
        table.add_row(
            entry.engine.value,
            entry.version or "any",
            _availability(version, version is not None and entry.accepts(version)),
            Text(_names(rule.id for rule in rules if rule.native), style="green"),
            Text(_names(rule.id for rule in rules if not rule.native), style="dim"),
            _names(op.value for op in entry.float_ops),
            entry.qdq.value,
        )
    return table


def _availability(version: str | None, usable: bool) -> Text:
    if version is None:
        return Text("not installed", style="dim")
    return Text(version, style="green") if usable else Text(f"{version}, out of range", style="red")


def _runtime_names(profile: DeviceProfile, installed: Installed) -> Text:
    parts: list[Text] = []
    for entry in profile.runtimes:
        version = installed.get(entry.engine.value)
        usable = version is not None and entry.accepts(version)
        parts.append(Text(entry.engine.value, style="green" if usable else "dim"))
    return Text(", ").join(parts)


def _names(values: Iterable[str]) -> str:
    return ", ".join(values) or _NONE
