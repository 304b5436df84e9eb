"""The connection that an address asks for."""

from __future__ import annotations

from pathlib import Path

from bitwright.foundation.errors import UsageError
from deploy.remote.adb import SCHEME, AdbAddress, AdbTransport
from deploy.remote.ssh import SshAddress, SshTransport
from deploy.remote.transport import Transport


def transport_to(address: str, ssh_config: Path | None = None) -> Transport:
    """Of `ssh://[user@]host[:port]` or `adb:SERIAL`; UsageError for anything else."""
    if not address.startswith(SCHEME):
        return SshTransport(SshAddress.parse(address), ssh_config)
    if ssh_config is not None:
        raise UsageError("--ssh-config says something of ssh; leave it out for a device of adb")
    return AdbTransport(AdbAddress.parse(address))
