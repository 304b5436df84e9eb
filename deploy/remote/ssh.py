"""SSH through the system's OpenSSH client, so that its configuration, keys and agent are those that are used."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from bitwright.foundation.errors import DeviceError, MissingPackageError, UsageError
from deploy.remote.client import talk
from deploy.remote.transport import Ended, Transport, printable

_FAILED = 255
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9_.-]+)?")
_SAFE = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "VerifyHostKeyDNS=no",
    "NoHostAuthenticationForLocalhost=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "ServerAliveCountMax=3",
)
"""Options that no configuration file overrides: never ask, never accept an unknown host, notice a dead connection."""


@dataclass(frozen=True)
class SshAddress:
    """`ssh://[user@]host[:port]`."""

    host: str
    user: str | None = None
    port: int | None = None

    @staticmethod
    def parse(text: str) -> SshAddress:
        """Read an address; UsageError for anything else, such as a password, a path or what ssh takes for an option."""
        wanted = f"{printable(text)!r} is no address; give ssh://user@host, ssh://user@host:port or adb:SERIAL"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise UsageError(wanted) from error
        if parts.password is not None:
            raise UsageError("an address holds no password; give ssh://user@host, and a key to log in with")
        host = parts.hostname or ""
        odd = parts.scheme != "ssh" or parts.path not in ("", "/") or parts.query or parts.fragment or port == 0
        # urlsplit drops some control characters, which the address then does not show.
        if odd or not text.isprintable() or not _HOST.fullmatch(host):
            raise UsageError(wanted)
        if parts.username is not None and not _USER.fullmatch(parts.username):
            raise UsageError(wanted)
        return SshAddress(host, parts.username, port)

    def __str__(self) -> str:
        user = "" if self.user is None else f"{self.user}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + ("" if self.port is None else f":{self.port}")


class SshTransport(Transport):
    """A machine behind an SSH server. `config`: a configuration file in place of the user's (ssh -F).

    `alive_seconds`: how often a silent server is asked for a sign of life; the connection ends after three without one.
    """

    default_folder = ".cache/bitwright"

    def __init__(
        self, address: SshAddress, config: Path | None = None, connect_seconds: int = 15, alive_seconds: int = 10
    ) -> None:
        """MissingPackageError where no OpenSSH client is installed, UsageError where `config` is no file."""
        client = shutil.which("ssh")
        if client is None:
            raise MissingPackageError("ssh is not installed; install the OpenSSH client (package openssh-client)")
        if config is not None and not config.is_file():
            raise UsageError(f"{config} is not a file; give a configuration file of ssh")
        self._address = address
        options = [*_SAFE, f"ServerAliveInterval={alive_seconds}", f"ConnectTimeout={connect_seconds}"]
        self._command = [client, "-T", *(word for option in options for word in ("-o", option))]
        self._command += [] if config is None else ["-F", str(config)]
        self._command += [] if address.port is None else ["-p", str(address.port)]
        self._command += [] if address.user is None else ["-l", address.user]
        self._command += ["--", address.host]

    @property
    def name(self) -> str:
        """The address."""
        return str(self._address)

    def run(
        self,
        arguments: Sequence[str],
        *,
        source: BinaryIO | None = None,
        sink: Callable[[bytes], None],
        silence_seconds: float,
    ) -> Ended:
        """See `Transport.run`. The server hands the command to the user's shell, so each argument is quoted for it."""
        command = [*self._command, shlex.join(arguments)]
        ended = talk(command, self.name, source=source, sink=sink, silence_seconds=silence_seconds)
        if ended.code == _FAILED:
            raise DeviceError(f"{self.name}: {_explain(ended, self._address)}")
        return ended


def _explain(ended: Ended, address: SshAddress) -> str:
    """What ssh's own failure means and what to do; it prints its reason on stderr, last."""
    text = ended.errors
    by_hand = shlex.join(["ssh", *(["-p", str(address.port)] if address.port else []),
                          f"{address.user}@{address.host}" if address.user else address.host])  # fmt: skip
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in text:
        return (
            "its host key is not the one that is known: the machine was installed anew, or another one answers in its "
            "place; find out which, then remove the old key with ssh-keygen -R"
        )
    if "Host key verification failed" in text or "host key is known for" in text:
        return f"its host key is not known here; connect once with `{by_hand}`, compare the key and accept it"
    if "Permission denied (" in text:
        return f"it refused the login ({ended.last_error}); make `{by_hand}` work without a password, with a key"
    if re.search("connect to host|Could not resolve|timed out during banner|banner exchange", text):
        return f"it cannot be reached ({ended.last_error})"
    return f"the connection was lost, or what ran there was killed ({ended.last_error})"
