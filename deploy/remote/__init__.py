"""Measuring on other machines: a bundle that carries engines and a runner, and ways to bring it there and back."""

from deploy.remote.bundle import is_bundle, write_bundle
from deploy.remote.manifest import Manifest, Protocol
from deploy.remote.measuring import REMOTE_FOLDER, FarBundle
from deploy.remote.results import Results
from deploy.remote.ssh import SshAddress, SshTransport
from deploy.remote.transport import Transport

__all__ = [
    "REMOTE_FOLDER",
    "FarBundle",
    "Manifest",
    "Protocol",
    "Results",
    "SshAddress",
    "SshTransport",
    "Transport",
    "is_bundle",
    "write_bundle",
]
