"""ADB through the system's own client, so that its server, its keys and its pairings are those that are used."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from bitwright.foundation.errors import DeviceError, MissingPackageError, UsageError
from deploy.remote.client import talk
from deploy.remote.transport import Ended, Transport, printable

SCHEME = "adb:"
_SERIAL = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9_.:\[\]-]*")
_TOLD = "bitwright: the command ended with"
_CODE = re.compile(rf"\n{_TOLD} ([0-9]+)\n$")


@dataclass(frozen=True)
class AdbAddress:
    """`adb:SERIAL`, a serial number as `adb devices` lists it."""

    serial: str

    @staticmethod
    def parse(text: str) -> AdbAddress:
        """Read an address; UsageError for anything else, such as no serial, or what adb takes for an option."""
        serial = text.removeprefix(SCHEME)
        if not text.startswith(SCHEME) or not _SERIAL.fullmatch(serial):
            raise UsageError(
                f"{printable(text)!r} is no address; give adb:SERIAL, with a SERIAL that `adb devices` lists"
            )
        return AdbAddress(serial)

    def __str__(self) -> str:
        return SCHEME + self.serial


class AdbTransport(Transport):
    """A device that the Android Debug Bridge reaches, over USB or a network."""

    default_folder = "/data/local/tmp/bitwright"

    def __init__(self, address: AdbAddress) -> None:
        """MissingPackageError where no adb is installed."""
        client = shutil.which("adb")
        if client is None:
            raise MissingPackageError("adb is not installed; install Android's platform tools (package adb)")
        self._address = address
        self._command = [client, "-s", address.serial, "shell", "-T"]

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
        """See `Transport.run`. The shell there tells how the command ended: adb itself ends with 0 after some drops.

        It ignores hang-ups, and so does the command: without that, the device ends both when the connection drops.
        """
        script = f"trap '' HUP; {shlex.join(arguments)}; code=$?; printf '\\n{_TOLD} %d\\n' $code >&2; exit $code"
        ended = talk([*self._command, script], self.name, source=source, sink=sink, silence_seconds=silence_seconds)
        told = _CODE.search(ended.errors)
        if told is None:
            raise DeviceError(f"{self.name}: {_explain(ended)}")
        return Ended(int(told[1]), ended.errors[: told.start()])


def _explain(ended: Ended) -> str:
    """What adb's own failure means and what to do; it prints its reason on stderr."""
    text = ended.errors
    if "unauthorized" in text:
        return "it does not trust this machine; unlock it and accept the key that it shows"
    if re.search("device '.*' not found|no devices/emulators found|device offline", text):
        return (
            f"it cannot be reached ({ended.last_error}); `adb devices` lists what can, and one on a network is "
            "connected with `adb connect HOST:PORT`"
        )
    if "cannot connect to daemon" in text or "failed to start daemon" in text or "protocol fault" in text:
        return f"adb's server does not work ({ended.last_error}); try `adb kill-server`"
    if "-T" in text and "support" in text:
        return "it cannot tell errors from output; Android 7 or later is needed"
    return f"the connection was lost, or what ran there was killed ({ended.last_error})"
