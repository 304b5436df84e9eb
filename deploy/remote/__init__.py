"""Measuring on other machines: a bundle that carries engines and a runner, and ways to bring it there and back."""

from deploy.remote.adb import AdbAddress, AdbTransport
from deploy.remote.addresses import transport_to
from deploy.remote.bundle import is_bundle, write_bundle
from deploy.remote.executed import audit_elsewhere
from deploy.remote.manifest import Manifest, Protocol
from deploy.remote.measuring import FarBundle
from deploy.remote.results import Results
from deploy.remote.ssh import SshAddress, SshTransport
from deploy.remote.transport import Transport

__all__ = [
    "AdbAddress",
    "AdbTransport",
    "FarBundle",
    "Manifest",
    "Protocol",
    "Results",
    "SshAddress",
    "SshTransport",
    "Transport",
    "audit_elsewhere",
    "is_bundle",
    "transport_to",
    "write_bundle",
]
