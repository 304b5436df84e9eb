"""Measuring a bundle on the other machine of a test, and doing something to it meanwhile."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from bitwright.foundation.errors import BitwrightError, DeviceError
from deploy.remote import FarBundle, Manifest, Results, Transport
from deploy.remote.sample_log import SAMPLES
from tests.deploy.bundle_helpers import Bundle
from tests.deploy.far_machine import runners


def far(transport: Transport, bundle: Bundle, folder: Path, python: str = sys.executable) -> FarBundle:
    return FarBundle(transport, bundle.file, bundle.manifest, python=python, folder=str(folder))


def samples_of(machine: FarBundle) -> Path:
    return Path(machine.place, "results", SAMPLES)


def goes_on(machine: FarBundle, target: Path, manifest: Manifest, sessions: int = 1) -> None:
    """Measure again: what was measured is kept, a runner that is still there is followed, and none is left behind."""
    before = samples_of(machine).read_bytes()
    machine.measure(target)
    assert target.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    result = Results.read(target).comparison(manifest)
    assert result.elsewhere is not None
    assert result.elsewhere.sessions == sessions
    assert runners(Path(machine.place)) == []


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
