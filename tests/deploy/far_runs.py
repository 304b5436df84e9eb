"""Measuring a bundle on the other machine of a test, and doing something to it meanwhile."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from bitwright.foundation.errors import BitwrightError, DeviceError
from deploy.remote import FarBundle, Transport
from deploy.remote.sample_log import SAMPLES
from tests.deploy.bundle_helpers import Bundle


def far(transport: Transport, bundle: Bundle, folder: Path, python: str = sys.executable) -> FarBundle:
    return FarBundle(transport, bundle.file, bundle.manifest, python=python, folder=str(folder))


def samples_of(machine: FarBundle) -> Path:
    return Path(machine.place, "results", SAMPLES)


class Background(threading.Thread):
    """A measurement that goes on while the test does something to it."""

    def __init__(self, machine: FarBundle, target: Path) -> None:
        super().__init__(daemon=True)
        self._machine = machine
        self._target = target
        self.error: BitwrightError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._machine.measure(self._target)
        except BitwrightError as error:
            self.error = error

    def ended_with(self) -> str:
        self.join(120)
        assert not self.is_alive()
        assert isinstance(self.error, DeviceError), self.error
        return str(self.error)
