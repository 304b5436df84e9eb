"""The architecture of this machine's processor, and whether a profile describes a processor of another one."""

from __future__ import annotations

import platform

from hw_profiles.schema import DeviceProfile
from hw_profiles.terms import DeviceKind

_NAMES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def architecture_of(machine: str | None = None) -> str:
    """What profiles call an architecture, such as x86_64 or aarch64; this machine's where none is given."""
    name = (platform.machine() if machine is None else machine).lower()
    return _NAMES.get(name, name)


def why_foreign(profile: DeviceProfile, machine: str | None = None) -> str | None:
    """Why neither kernels nor times of a machine of this architecture are those of the device, in words.

    None where they may be: the same architecture, a device that is no processor, or a profile that names none.
    """
    wanted, found = profile.arch.isa, architecture_of(machine)
    if profile.kind is not DeviceKind.CPU or wanted is None or wanted == found:
        return None
    return f"{profile.id} is for {wanted} processors, and this one is {found}"
