"""Which profiles fit a machine, best first, and what each runtime there would run natively or emulate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hw_profiles.host import Host
from hw_profiles.installed import installed_runtimes
from hw_profiles.loading import list_profiles
from hw_profiles.schema import DeviceProfile
from hw_profiles.terms import DeviceKind


@dataclass(frozen=True)
class RuntimeMatch:
    """One runtime of a profile on this machine. `version` None: not installed; `in_range`: `takes` it."""

    engine: str
    version: str | None
    in_range: bool
    native: tuple[str, ...]
    emulated: tuple[str, ...]


@dataclass(frozen=True)
class HostMatch:
    """A profile that fits a machine, why it does, and what its runtimes do here (the profile's order)."""

    profile: DeviceProfile
    reasons: tuple[str, ...]
    runtimes: tuple[RuntimeMatch, ...]

    @property
    def usable(self) -> tuple[RuntimeMatch, ...]:
        """Runtimes that are installed in a version that the profile accepts."""
        return tuple(runtime for runtime in self.runtimes if runtime.in_range)


def takes(profile: DeviceProfile, engine: str, version: str | None) -> bool:
    """Whether a runtime of this version (None: not installed) is one that the profile takes, and reaches it."""
    entry = profile.runtime(engine)
    return version is not None and entry is not None and entry.accepts(version) and reaches(profile, version)


def reaches(profile: DeviceProfile, version: str) -> bool:
    """Whether a package of this version reaches the device: torch is also built for processors alone."""
    return profile.kind is not DeviceKind.GPU or not version.endswith("+cpu")


def match_host(
    host: Host,
    profiles: Iterable[DeviceProfile] | None = None,
    installed: Mapping[str, str | None] | None = None,
) -> list[HostMatch]:
    """Profiles that fit `host`, best first; empty where none does.

    Those with a usable runtime come first, then those that name this very board or GPU, then those that need more of
    the CPU's features. `profiles` defaults to the catalogue, `installed` to what is installed here.
    """
    found = installed_runtimes() if installed is None else installed
    matches = []
    for profile in list_profiles() if profiles is None else profiles:
        reasons = _reasons(profile, host)
        if reasons is not None:
            matches.append(HostMatch(profile, reasons, _runtimes(profile, found)))
    return sorted(matches, key=_rank)


def _rank(match: HostMatch) -> tuple[bool, bool, int, str]:
    arch = match.profile.arch
    return (not match.usable, not arch.names, -len(arch.features), match.profile.id)


def _reasons(profile: DeviceProfile, host: Host) -> tuple[str, ...] | None:
    """Why `profile` fits `host`, or None where it does not."""
    arch = profile.arch
    reasons: list[str] = []
    if arch.names:
        reported = [name for name in (host.board, host.cpu_model, *host.gpus) if name]
        hits = [name for name in reported if any(fnmatchcase(name.lower(), part.lower()) for part in arch.names)]
        if not hits:
            return None
        reasons.append(f"this machine has {hits[0]}")
    if profile.kind is DeviceKind.CPU:
        if arch.isa != host.machine or not host.flags.issuperset(arch.features):
            return None
        reasons.append(f"{host.cpu_model} has {', '.join(arch.features)}")
    return tuple(reasons) or None


def _runtimes(profile: DeviceProfile, installed: Mapping[str, str | None]) -> tuple[RuntimeMatch, ...]:
    matches = []
    for entry in profile.runtimes:
        version = installed.get(entry.engine.value)
        rules = profile.rules(entry.engine)
        matches.append(
            RuntimeMatch(
                engine=entry.engine.value,
                version=version,
                in_range=takes(profile, entry.engine.value, version),
                native=tuple(rule.id for rule in rules if rule.native),
                emulated=tuple(rule.id for rule in rules if not rule.native),
            )
        )
    return tuple(matches)
