"""EventLog: scalars of a training as an event file that TensorBoard reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bitwright.foundation.files import explain_os_error
from bitwright.foundation.optional import require

PACKAGE, EXTRA = "tensorboardX", "logs"
FLUSH_SECONDS = 10
STEP = "step"


def check_installed() -> None:
    """MissingPackageError where event files cannot be written."""
    require(PACKAGE, extra=EXTRA)


class EventLog:
    """One event file in `folder`. A continued training tells its history anew, so an earlier file is replaced."""

    def __init__(self, folder: Path) -> None:
        module = require(PACKAGE, extra=EXTRA)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for earlier in folder.glob("events.out.tfevents.*"):
                earlier.unlink()
        except OSError as error:
            raise explain_os_error(error, folder) from error
        self._writer = module.SummaryWriter(logdir=str(folder), flush_secs=FLUSH_SECONDS)

    def listener(self, name: str) -> Callable[[Mapping[str, float]], None]:
        """What hears of the history's entries; every figure of an entry is the scalar `name`/figure at its step."""

        def hear(entry: Mapping[str, float]) -> None:
            for figure, value in entry.items():
                if figure != STEP:
                    self._writer.add_scalar(f"{name}/{figure}", value, int(entry[STEP]))

        return hear

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
