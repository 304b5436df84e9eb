"""Devices as plain data for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hw_profiles import DeviceProfile, Host, HostMatch

Installed = Mapping[str, str | None]


def row(profile: DeviceProfile, installed: Installed) -> dict[str, Any]:
    """One line of the catalogue."""
    return {
        "id": profile.id,
        "name": profile.name,
        "kind": profile.kind.value,
        "native": [rule.id for rule in profile.precisions if rule.native],
        "emulated": [rule.id for rule in profile.precisions if not rule.native],
        "sparsity": [entry.pattern for entry in profile.sparsity if entry.native],
        "runtimes": {entry.engine.value: installed.get(entry.engine.value) for entry in profile.runtimes},
        "hash": profile.hash(),
    }


def one(profile: DeviceProfile, installed: Installed) -> dict[str, Any]:
    """Everything about a profile: its file with defaults written out, its hash, and what is installed here."""
    data: dict[str, Any] = profile.model_dump(mode="json", by_alias=True)
    return {**data, "hash": profile.hash(), "installed": row(profile, installed)["runtimes"]}


def here(host: Host, matches: Sequence[HostMatch], installed: Installed) -> dict[str, Any]:
    """This machine, the profiles that fit it, best first, and the runtimes installed on it."""
    return {
        "host": {
            "system": host.system,
            "machine": host.machine,
            "cpu_model": host.cpu_model,
            "vendor": host.vendor,
            "cores": host.cores,
            "memory_gb": host.memory_gb,
            "board": host.board,
            "gpus": list(host.gpus),
            "flags": sorted(host.flags),
        },
        "matches": [
            {
                "id": match.profile.id,
                "reasons": list(match.reasons),
                "runtimes": [
                    {
                        "engine": runtime.engine,
                        "version": runtime.version,
                        "usable": runtime.in_range,
                        "native": list(runtime.native),
                        "emulated": list(runtime.emulated),
                    }
                    for runtime in match.runtimes
                ],
            }
            for match in matches
        ],
        "installed": dict(installed),
    }
